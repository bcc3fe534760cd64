//! Namespaces of Linux for tests that need a disk or a network of their own.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{path::PathBuf, process::Command};

/// Names the test that runs in a namespace already.
const INSIDE: &str = "SPAREWIRE_TEST_INSIDE";
/// A folder for that test.
const FOLDER: &str = "SPAREWIRE_TEST_FOLDER";

/// Runs the test called `test` anew, alone, in namespaces of these kinds (`--mount`, `--net`) that
/// the shell commands `setup` have prepared, and says `None`. There it says `Some`, with a folder,
/// which is `$SPAREWIRE_TEST_FOLDER` in `setup`. Where that is not allowed the test is skipped, and
/// says so.
pub fn enter(test: &str, kinds: &[&str], setup: &str) -> Option<PathBuf> {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return Some(std::env::var_os(FOLDER).unwrap().into());
    }
    let folder = tempfile::tempdir().unwrap();
    let run = |user: &[&str], script: &str| {
        let mut command = Command::new("unshare");
        command.args(user).args(kinds).args(["--", "sh", "-ec", script]);
        command.arg(std::env::current_exe().unwrap()).arg(test);
        command.env(INSIDE, test).env(FOLDER, folder.path()).output()
    };
    let users: [&[&str]; 2] = [&[], &["--map-root-user"]];
    let may = |user: &&&[&str]| run(user, setup).is_ok_and(|tried| tried.status.success());
    let Some(user) = users.iter().find(may) else {
        eprintln!("{test} is skipped: it needs a namespace (root, or unshare --map-root-user)");
        return None;
    };
    let script = format!("{setup}\nexec \"$0\" --exact \"$1\" --nocapture --test-threads=1");
    let ran = run(user, &script).unwrap();
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(ran.status.success() && said[0].contains("1 passed"), "{}\n{}", said[0], said[1]);
    None
}

/// Runs a shell command in the folder's namespace.
pub fn sh(script: &str) {
    let ran = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(ran.success(), "{script}");
}
