//! What a node may tell that is not so.

use alloy_primitives::{Address, B256, Bytes};
use serde_json::{Value, json};

/// A name, and what becomes of honest logs.
type Lie = (&'static str, fn(&mut Vec<Value>));

/// Ways to tell logs that are not the contract's.
pub(super) fn lies() -> Vec<Lie> {
    vec![
        ("leaves the last out", |logs| {
            logs.pop();
        }),
        ("leaves all out", Vec::clear),
        ("tells other amounts", |logs| {
            for log in logs {
                let data = log["data"].as_str().unwrap().replace("12c", "12d");
                log["data"] = json!(data);
            }
        }),
        ("cuts data off", |logs| {
            for log in logs {
                let data: Bytes = serde_json::from_value(log["data"].clone()).unwrap();
                log["data"] = json!(data.slice(..data.len() / 2));
            }
        }),
        ("tells of another contract", |logs| {
            for log in logs {
                log["address"] = json!(Address::repeat_byte(9));
            }
        }),
        ("tells of other blocks", |logs| {
            for log in logs {
                log["blockNumber"] = json!("0xffffffff");
            }
        }),
        ("tells of the newest block twice, in two ways", |logs| {
            let mut last = logs.last().cloned().unwrap_or_default();
            last["transactionHash"] = json!(B256::ZERO);
            logs.push(last);
        }),
        ("tells the wrong time", |logs| {
            for log in logs {
                log["blockTimestamp"] = json!("0x1");
            }
        }),
        ("gives other transactions", |logs| {
            for log in logs {
                log["transactionHash"] = json!(B256::repeat_byte(7));
            }
        }),
        ("says they were taken back", |logs| {
            for log in logs {
                log["removed"] = json!(true);
            }
        }),
        ("has five topics", |logs| {
            for log in logs {
                let topics = log["topics"].as_array_mut().unwrap();
                topics.resize(5, json!(B256::ZERO));
            }
        }),
        ("has no topics", |logs| {
            for log in logs {
                log["topics"] = json!([]);
            }
        }),
    ]
}

/// What a node may put where something else belongs.
pub(super) fn anything(draw: &mut impl FnMut(u64) -> u64, others: &[Value]) -> Value {
    let other = &others[draw(others.len() as u64) as usize];
    match draw(12) {
        0 => Value::Null,
        1 => json!(draw(u64::MAX)),
        2 => json!("0x"),
        3 => json!("0x0"),
        4 => json!("0xffffffffffffffff"),
        5 => json!(format!("{:#x}", draw(64))),
        6 => json!(format!("0x{}", "ff".repeat(draw(200) as usize))),
        7 => json!(format!("0x{}", "00".repeat(draw(200) as usize))),
        8 => json!([]),
        9 => json!(vec![B256::repeat_byte(draw(256) as u8); draw(7) as usize]),
        10 => json!("no hex"),
        _ => {
            let fields = other.as_object().unwrap();
            fields.values().nth(draw(fields.len() as u64) as usize).unwrap().clone()
        }
    }
}
