//! Open files: a shell's low soft limit is raised, a hard one that is too low is named.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, process::Command};

use support::{Market, Running};

/// The same command under other limits of open files.
fn limited(command: Command, soft: u32, hard: u32) -> Command {
    let script = format!("ulimit -S -n {soft} && ulimit -H -n {hard} && exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// A process's soft and hard limit.
fn limits(running: &Running) -> Vec<u32> {
    let all = fs::read_to_string(format!("/proc/{}/limits", running.id())).unwrap();
    let line = all.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn the_limit_of_open_files_is_raised_and_a_low_one_is_named() {
    let mut market = Market::funded();
    market.provide_with(limited(market.provide_command(), 100, 3000));
    let provider = market.providing.as_mut().unwrap();
    assert_eq!(limits(provider), [3000, 3000]);
    // 256 sessions of 2048 tunnels each.
    for words in ["WARN", "at most 3000 open files", "524288", "connections_max"] {
        provider.warned(words);
    }
    market.connect_with(limited(market.connect_command(), 100, 3000));
    let consumer = market.connecting.as_ref().unwrap();
    assert_eq!(limits(consumer), [3000, 3000]);
    market.connected();
    market.download("/bytes/1000");
    let ended = market.disconnect();
    assert!(!ended.stderr.contains("WARN"), "2048 tunnels are not too many: {ended:?}");
}
