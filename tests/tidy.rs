//! What clippy cannot check: ranks, file heads, file sizes, words that must not be there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking with the cause"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// The rank of every top-level module; a module imports only strictly lower ranks.
const RANKS: [(&str, u8); 20] = [
    ("causes", 0),
    ("clock", 0),
    ("sql", 0),
    ("wire", 0),
    ("manifest", 1),
    ("telemetry", 1),
    ("throwaway", 1),
    ("tls", 1),
    ("workload", 1),
    ("pg", 2),
    ("routing", 2),
    ("engine", 3),
    ("proxy", 3),
    ("config", 4),
    ("explain", 4),
    ("admin", 5),
    ("app", 6),
    ("demo", 7),
    ("cli", 8),
    ("lib", u8::MAX),
];

/// Production lines (before `#[cfg(test)]`) a file may have.
const LINES_MAX: usize = 600;

fn sources(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty());
    found
}

fn module_of(path: &Path) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

#[test]
fn a_module_imports_only_lower_ranks() {
    let mut upward = Vec::new();
    for path in sources("src") {
        let module = module_of(&path);
        if module == "main" || module == "lib" {
            continue;
        }
        let own = rank(&module).unwrap_or_else(|| panic!("{module} has no rank in tests/tidy.rs"));
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            for part in line.split("crate::").skip(1) {
                let used: String =
                    part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used != module && rank(&used).is_some_and(|r| r >= own) {
                    upward.push(format!("{}:{}: {module} → {used}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(upward.is_empty(), "imports of the same or a higher rank:\n{}", upward.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_is_read_in_one_sitting() {
    let mut wrong = Vec::new();
    for dir in ["src", "tests"] {
        for path in sources(dir) {
            let text = fs::read_to_string(&path).unwrap();
            if !text.starts_with("//!") {
                wrong.push(format!("{}: no //! at the top", path.display()));
            }
            let lines = text.lines().take_while(|l| *l != "#[cfg(test)]").count();
            if lines > LINES_MAX {
                wrong.push(format!("{}: {lines} lines, at most {LINES_MAX}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_to_fix_skip_or_sleep_over() {
    let mut wrong = Vec::new();
    for dir in ["src", "tests"] {
        for path in sources(dir) {
            if path.ends_with("tests/tidy.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for word in ["FIXME", "TODO", "XXX", "#[ignore", "should_panic", "thread::sleep"] {
                if text.contains(word) {
                    wrong.push(format!("{}: {word}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_integration_test_file_is_listed() {
    let main =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/main.rs")).unwrap();
    for path in sources("tests/it") {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
        let first = path.strip_prefix(dir).unwrap().components().next().unwrap();
        let name = first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        assert!(name == "main" || main.contains(&format!("mod {name};")), "{name} is not listed");
    }
}
