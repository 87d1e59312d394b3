//! An error and what caused it, on one line: how errors are logged and shown.

use std::error::Error;

/// `what failed: why: why that`; a cause whose text is there already is left out.
pub fn in_one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn every_cause_is_said_once() {
        let root = Layer("no route to host", None);
        let same = Layer("cannot connect: no route to host", Some(Box::new(root)));
        let top = Layer("the engine cannot start", Some(Box::new(same)));
        assert_eq!(in_one_line(&top), "the engine cannot start: cannot connect: no route to host");
        let root = Layer("no route to host", None);
        let within = Layer("cannot connect", Some(Box::new(root)));
        let top = Layer("the engine: cannot connect: no route to host", Some(Box::new(within)));
        assert_eq!(in_one_line(&top), "the engine: cannot connect: no route to host");
    }
}
