//! The river flows one way: no station imports one that lies further down.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // sources are files

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Each module and the station that it lies at; the smaller number is further up. What shares a
/// station may know one another:
///
/// * `error`, `message`, `terms` are one station, the words on the wire: an error names the refusal
///   that tells it to the peer, terms say what breaks them, and messages carry terms;
///   appointments are framed as messages are.
/// * `payer`, `payee` are the two banks of one session and check a channel in the same way;
///   `opening` is how the payee begins it, `closing` how both leave it.
const STATIONS: [(&str, u8); 18] = [
    ("meter", 1),
    ("credit", 1),
    ("receipt", 2),
    ("channel", 3), // vouchers
    ("terms", 4),
    ("message", 4),
    ("error", 4),
    ("appointment", 4),
    ("session", 5),
    ("set_off", 5),
    ("payer", 6),
    ("payee", 6),
    ("opening", 6),
    ("closing", 6),
    ("claiming", 7),
    ("stake", 7),
    ("settlement", 7),
    ("watch", 8),
];

/// `source` without its tests, which may look anywhere, and comments, which talk of everything.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules that `source` imports from its own crate, in `use crate::…` or by path.
fn imports(source: &str) -> Vec<String> {
    let code = code(source);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(top_level_names(group)),
            None => found.push(name(rest)),
        }
    }
    found
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first names of the entries of a `{…}` group, whose opening brace is behind us.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut fresh) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                names.push(name(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn imports_are_found_in_every_form() {
    let source = "//! crate::nothing\nuse crate::meter::Reading;\nuse crate::{\n    channel::{A, B},\n    \
        error::E,\n};\nfn f() -> crate::session::Output {}\n#[cfg(test)]\nuse crate::payer;";
    assert_eq!(imports(source), ["meter", "channel", "error", "session"]);
}

#[test]
fn no_station_imports_one_further_down_the_river() {
    let stations = BTreeMap::from(STATIONS);
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for entry in std::fs::read_dir(&src).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if module == "lib" {
            continue;
        }
        assert!(path.is_file(), "{module}: teach this test about folders");
        let Some(own) = stations.get(module.as_str()) else {
            panic!("{module} has no place on the river yet: give it one in this test");
        };
        seen += 1;
        for import in imports(&std::fs::read_to_string(&path).unwrap()) {
            let Some(theirs) = stations.get(import.as_str()) else {
                panic!("{module} imports crate::{import} past its module; name the module");
            };
            assert!(theirs <= own, "{module} imports {import}, which lies further down the river");
        }
    }
    assert_eq!(seen, STATIONS.len(), "a station is gone: take it out of this test");
}

/// What `clippy.toml` cannot say for lack of wildcards: whole modules that stay outside.
const OUTSIDE: [&str; 12] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "std::time",
    "HashMap",
    "HashSet",
    "tokio",
    "getrandom",
    "rand::",
    "async fn",
];

#[test]
fn no_source_of_core_and_protocol_reaches_outside() {
    // The chain is asked, not driven: its trait is what the shell implements.
    let allowed = [("settlement.rs", "async fn")];
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders: [PathBuf; 2] = [here.join("src"), here.join("../core/src")];
    for path in folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let path = path.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let source = std::fs::read_to_string(&path).unwrap();
        for line in code(&source).lines() {
            for outside in OUTSIDE {
                let banned = line.contains(outside) && !allowed.contains(&(file.as_str(), outside));
                assert!(!banned, "{file} reaches outside: {line}");
            }
        }
    }
}
