//! docs/check.md explains every kind of finding, and none that is not there.

use pgsegue::engine::check::Kind;
use std::collections::BTreeSet;

#[test]
fn the_page_has_a_section_for_every_kind_and_says_why() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/check.md");
    let page = std::fs::read_to_string(path).unwrap();
    let sections: Vec<(&str, &str)> = page
        .split("\n### ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap_or((section, "")))
        .collect();
    let heads: Vec<&str> = sections.iter().map(|(head, _)| head.trim_matches('`')).collect();
    let unique: BTreeSet<&str> = heads.iter().copied().collect();
    assert_eq!(unique.len(), heads.len(), "a kind is there twice: {heads:?}");
    let words: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
    assert_eq!(unique, words);
    for kind in Kind::ALL {
        let (_, text) =
            sections.iter().find(|(head, _)| head.trim_matches('`') == kind.word()).unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains(kind.why()),
            "docs/check.md does not say of `{}`: {}",
            kind.word(),
            kind.why()
        );
        for part in ["*Severity:*", "*Remedy:*"] {
            assert!(text.contains(part), "docs/check.md has no {part} of `{}`", kind.word());
        }
    }
}
