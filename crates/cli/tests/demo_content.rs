//! `sparewire demo content`: a paid swarm in one process, and figures that add up.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{number, run};

const SIZE: u128 = 4 << 20;
/// One unit a byte, so that money and bytes are the same numbers, without rounding.
const PRICE: &str = "1073.741824";

/// Holds every figure of the table against the others; says the first that is off.
fn audit(table: &Value) -> Result<(), String> {
    let rows = table["rows"].as_array().ok_or("no rows")?;
    let of = |row: &Value, key: &str| number(&row[key]);
    let sum = |key: &str| rows.iter().map(|row| of(row, key)).sum::<u128>();
    let same = |what: String, one: u128, other: u128| {
        if one == other { Ok(()) } else { Err(format!("{what}: {one} and {other}")) }
    };
    same("rows".into(), rows.len() as u128, 5)?;
    for (at, row) in rows.iter().enumerate() {
        let who = row["who"].as_str().ok_or("nobody")?;
        let figure = |key| of(row, key);
        // Of what it bought, and of what it sold, the same was set off.
        let set_off = figure("set_off");
        same(format!("{who} bought"), figure("bought_bytes"), figure("paid") + set_off)?;
        same(format!("{who} sold"), figure("sold_bytes"), figure("earned") + set_off)?;
        same(format!("{who} claimed"), figure("claimed"), figure("earned"))?;
        let least = if at == 0 { 0 } else { SIZE };
        // Nothing is paid for that was not asked for: what came twice is at most 64 blocks late.
        let most = if at == 0 { 0 } else { SIZE + (64 << 14) };
        if !(least..=most).contains(&figure("bought_bytes")) {
            return Err(format!("{who} bought {}", figure("bought_bytes")));
        }
        if figure("gas") < 21_000 {
            return Err(format!("{who} claimed or deposited without gas"));
        }
    }
    same("all paid what all earned".into(), sum("paid"), sum("earned"))?;
    same("all bought what all sold".into(), sum("bought_bytes"), sum("sold_bytes"))?;
    same("the sample".into(), number(&table["sample_bytes"]), SIZE)?;
    same("it agrees".into(), u128::from(table["agree"] == true), 1)
}

#[test]
fn every_figure_of_the_swarm_follows_from_the_others() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(support::SPAREWIRE);
    command.args(["demo", "content", "--size", "4MiB", "--price", PRICE, "--json"]);
    command.env("TMPDIR", temp.path());
    let table = run(command).json();
    assert_eq!(audit(&table), Ok(()), "{table:#}");
    assert_eq!(table["disagreements"], Value::Array(vec![]));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "something is left behind");

    // The audit sees each figure that is off by one.
    for row in 0..5 {
        for key in ["bought_bytes", "sold_bytes", "paid", "earned", "set_off", "claimed"] {
            let mut off = table.clone();
            let figure = &mut off["rows"][row][key];
            *figure = (number(figure) + 1).to_string().into();
            assert!(audit(&off).is_err(), "{key} of row {row}");
        }
    }
}
