//! Replays the committed corpora: what fuzzing ever found, and what covers the decoders best.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use sparewire_sim::fuzz::{Body, TARGETS, seeds};

/// What fits a repository: a corpus is minimised, not a collection.
const FILES_MAX: usize = 120;
const BYTES_MAX: usize = 256 << 10;

fn fuzz_dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz"))
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = fuzz_dir().join("corpus").join(target);
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn replay(inputs: &[(PathBuf, Vec<u8>)], body: Body) -> Vec<PathBuf> {
    let failed =
        inputs.iter().filter(|(_, input)| catch_unwind(AssertUnwindSafe(|| body(input))).is_err());
    failed.map(|(path, _)| path.clone()).collect()
}

#[test]
fn every_target_has_a_corpus_and_nothing_in_it_fails() {
    let mut failed = Vec::new();
    for (name, body) in TARGETS {
        let corpus = corpus(name);
        let bytes: usize = corpus.iter().map(|(_, input)| input.len()).sum();
        assert!(!corpus.is_empty(), "{name} has no corpus: see fuzz/README.md");
        assert!(
            corpus.len() <= FILES_MAX && bytes <= BYTES_MAX,
            "{name}: {} files, {bytes} bytes: minimise it",
            corpus.len()
        );
        println!("{name}: {} inputs, {bytes} bytes", corpus.len());
        failed.extend(replay(&corpus, *body));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_good_input_passes_and_every_target_has_some() {
    for (name, body) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        seeds.iter().for_each(|seed| body(seed));
        body(&[]);
    }
}

#[test]
fn every_target_has_a_binary_and_every_binary_a_target() {
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let path = fuzz_dir().join(format!("fuzz_targets/{name}.rs"));
        let source = fs::read_to_string(&path).unwrap();
        assert!(source.contains(&format!("sparewire_sim::fuzz::{name}(data)")), "{name}");
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
    }
    let binaries = fs::read_dir(fuzz_dir().join("fuzz_targets")).unwrap().count();
    assert_eq!(binaries, TARGETS.len());
}

#[test]
#[ignore = "writes: good inputs into the corpora, for fuzzing to begin with"]
fn write_seeds() {
    for (name, _) in TARGETS {
        let dir = fuzz_dir().join("corpus").join(name);
        fs::create_dir_all(&dir).unwrap();
        for (index, seed) in seeds(name).iter().enumerate() {
            fs::write(dir.join(format!("seed-{index:03}")), seed).unwrap();
        }
    }
}
