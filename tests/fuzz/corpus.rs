//! Replays `fuzz/corpus` and mutates it.

use super::targets::{ALL, run};
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// Mutations of each target's corpus: a second or two without optimisation.
const MUTATIONS: usize = 20_000;
/// Longer inputs are not grown any more.
const BYTES_MAX: usize = 2_000;

/// The stored inputs of a target, by name.
fn stored(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), fs::read(&path).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn the_stored_corpus_finds_nothing() {
    for (name, _) in ALL {
        let inputs = stored(name);
        assert!(!inputs.is_empty(), "no corpus of {name}");
        for (path, input) in inputs {
            assert!(catch_unwind(|| run(name, &input)).is_ok(), "{path}");
        }
    }
}

#[test]
fn mutations_of_the_corpus_find_nothing() {
    for (name, _) in ALL {
        let inputs: Vec<_> = stored(name).into_iter().map(|(_, input)| input).collect();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..MUTATIONS {
            let input = mutated(&inputs, &mut random);
            assert!(catch_unwind(|| run(name, &input)).is_ok(), "{name}: {input:?}");
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % n.max(1)
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 12] = [0, 1, 2, 4, 0x7f, 0x80, 0xff, b'\'', b'"', b'$', b';', b'('];
        match self.below(2) {
            0 => TELLING[self.below(TELLING.len())],
            _ => u8::try_from(self.below(256)).unwrap(),
        }
    }
}

fn mutated(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = inputs[random.below(inputs.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let end = at + random.below(input.len() - at + 1).min(8);
        match random.below(5) {
            0 if at < input.len() => input[at] = random.byte(),
            1 => input.insert(at, random.byte()),
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            _ => {
                let other = &inputs[random.below(inputs.len())];
                let from = random.below(other.len() + 1);
                let piece = &other[from..from + random.below(other.len() - from + 1)];
                input.splice(at..end, piece.iter().copied());
            }
        }
        input.truncate(BYTES_MAX);
    }
    input
}
