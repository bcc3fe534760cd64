//! Why was I paid, or not: sessions explained, earnings that add up, and nodes that go on from a
//! backup, by whole processes.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use serde_json::Value;
use support::{Market, number, only, owed, paid, run, sha256, sha256_of, sparewire, until};

/// A unit of money for about a byte.
const PRICE: u128 = 1_000_000_000;

fn id(session: &Value) -> String {
    session["session"].as_str().unwrap().to_owned()
}

/// The sum of a figure over lines of `earnings`.
fn sum(lines: &Value, side: &str, key: &str) -> u128 {
    let lines = lines["lines"].as_array().unwrap().iter();
    lines.filter(|line| line["side"] == side).map(|line| number(&line[key])).sum()
}

#[test]
fn the_story_of_a_session_is_told_by_both_and_earnings_add_up_to_it() {
    let mut market = Market::open();
    market.download("/bytes/3000000");
    market.provider.settle();
    market.download("/bytes/2000000");
    market.disconnect();
    // Another session over the same channel, claimed together with the rest of the first.
    market.connect();
    market.connected();
    market.download("/bytes/1000000");
    market.disconnect();
    let settled = market.provider.settle();
    let last = only(settled["transactions"].as_array().unwrap()).clone();

    let sessions = market.provider.sessions();
    let [first, second] = &sessions[..] else { panic!("{sessions:#?}") };
    for (session, transactions) in [(first, 2), (second, 1)] {
        // The provider runs on: its journal is asked for.
        let theirs = market.provider.json(&["session", "explain", &id(session)]);
        let ours = market.consumer.json(&["session", "explain", &id(session)]);
        assert_eq!((&ours["side"], &theirs["side"]), (&"payer".into(), &"payee".into()));
        for story in [&ours, &theirs] {
            assert_eq!(paid(story), paid(session), "{story:#}");
            assert_eq!(number(&story["receipted"]), paid(session));
            assert_eq!(number(&story["claimed_on_chain"]), paid(session));
            assert_eq!(story["voucher"]["signature_valid"], true);
            assert_eq!(story["voucher"]["amount_right"], true);
            let receipts = story["receipts"].as_array().unwrap();
            assert!(!receipts.is_empty());
            for receipt in receipts {
                for key in ["payer_signed", "payee_signed", "amount_right", "follows"] {
                    assert_eq!(receipt[key], true, "{key} of {receipt}");
                }
            }
            assert_eq!(story["terms_signed"], true);
            assert_eq!(story["findings"], Value::Array(Vec::new()), "nothing is missing");
        }
        let claims = theirs["claims"].as_array().unwrap();
        assert_eq!(claims.len(), transactions, "{theirs:#}");
        assert_eq!(claims.last().unwrap()["transaction"], last["hash"]);
        let claimed: u128 = claims.iter().map(|claim| number(&claim["amount"])).sum();
        assert_eq!(claimed, paid(session));
        assert_eq!(number(&theirs["claimed"]), claimed);
    }
    let text = market.provider.run(["session", "explain", &id(first)[2..10]]).ok();
    let told = ["What was agreed", "signed by both", "When it stood still", "claimed", "net"];
    assert!(told.iter().all(|words| text.contains(words)), "{text}");
    assert!(!text.contains("FALSE") && !text.contains("WRONG"), "{text}");

    // However it is grouped, it is what the other commands say.
    let (promised, claimed) = (market.provider.promised(), market.provider.claimed());
    let everything = paid(first) + paid(second);
    assert_eq!((promised, claimed), (everything, everything));
    let mut fees = None;
    for by in ["day", "session", "channel"] {
        let earned = market.provider.json(&["earnings", "--by", by]);
        let of = |key| sum(&earned, "provider", key);
        assert_eq!(of("promised"), everything, "{earned:#}");
        assert_eq!(
            (of("receipted"), of("claimed"), of("settled")),
            (everything, everything, everything)
        );
        assert_eq!(number(&earned["provider"]["promised"]), everything);
        let bytes: u128 = sessions
            .iter()
            .map(|s| number(&s["paid_for"]["up"]) + number(&s["paid_for"]["down"]))
            .sum();
        assert_eq!(of("bytes"), bytes);
        assert!(of("fees_wei") > 0);
        assert_eq!(*fees.get_or_insert(of("fees_wei")), of("fees_wei"), "by {by}");
        let spent = market.consumer.json(&["earnings", "--by", by]);
        assert_eq!(sum(&spent, "consumer", "promised"), everything, "{spent:#}");
        assert_eq!(sum(&spent, "provider", "promised"), 0);
        assert!(sum(&spent, "consumer", "fees_wei") > 0, "it opened a channel: {spent:#}");
    }
    let by_session = market.provider.json(&["earnings", "--by", "session"]);
    for session in &sessions {
        let lines = by_session["lines"].as_array().unwrap();
        let line = lines.iter().find(|line| line["session"] == session["session"]).unwrap();
        assert_eq!(number(&line["claimed"]), paid(session), "{line}");
        let story = market.provider.json(&["session", "explain", &id(session)]);
        assert_eq!(number(&line["fees_wei"]), number(&story["fees_wei"]));
    }
    let csv = market.provider.run(["earnings", "--by", "channel", "--csv"]).ok();
    let lines: Vec<&str> = csv.split_terminator("\r\n").collect();
    assert_eq!(lines[0], "side,channel,bytes,receipted,promised,claimed,settled,fees_wei");
    assert_eq!(lines[1].split(',').nth(4), Some(everything.to_string().as_str()));
    let later = market.provider.json(&["earnings", "--since", "2999-01-01"]);
    assert_eq!(later["lines"].as_array().unwrap().len(), 0);
    let wrong = market.provider.run(["earnings", "--since", "yesterday"]);
    assert!(!wrong.status.success() && wrong.stderr.contains("2026-11-21"), "{wrong:?}");
}

#[test]
fn a_consumer_that_stops_paying_is_told_of_with_what_its_signature_would_have_been_needed_for() {
    let mut market = Market::open();
    let curl = market.downloading("/bytes/30000000");
    market.carried(1 << 20);
    let connecting = market.connecting.take().unwrap();
    connecting.signal("-STOP");
    let session = only(&market.provider.sessions()).clone();
    let story = || market.provider.json(&["session", "explain", &id(&session)]);
    let stop = until("a stop", || {
        let stops = story()["stops"]["first_and_last"].as_array().unwrap().clone();
        stops.into_iter().find(|stop| stop["lasted_ms"].is_null())
    });
    assert!(["unpaid", "silent"].contains(&stop["reason"].as_str().unwrap()), "{stop}");
    assert!(number(&stop["waiting"]) >= 1, "{stop}");
    connecting.kill_9();
    drop(curl);
    // The provider notices in its own time, and remembers what it carried.
    let story = until("what was lost", || {
        let story = story();
        (number(&story["unpaid_bytes"]) > 0).then_some(story)
    });
    let findings = story["findings"].to_string();
    assert!(findings.contains("the consumer's signature would have been needed"), "{findings}");
    let lost = number(&story["unpaid_bytes"]);
    assert!(findings.contains(&owed(lost, PRICE).to_string()), "{findings}");
}

#[test]
fn a_provider_whose_disk_dies_goes_on_from_an_old_backup_and_contradicts_nothing() {
    let mut market = Market::open();
    market.download("/bytes/1000000");
    let password = market.path("backup-password");
    fs::write(&password, "another horse\n").unwrap();
    let file = market.path("node.backup");
    let (file_name, password_name) = (file.to_str().unwrap(), password.to_str().unwrap());
    assert!(market.provider.json(&["status"])["last_backup"].is_null());
    // While it serves.
    let create = ["backup", "create", file_name, "--password-file", password_name];
    let made = market.provider.json(&create);
    assert_eq!(
        (&made["manifest"]["keys"], &made["manifest"]["sessions"]),
        (&true.into(), &1.into())
    );
    market.provider.run(create).fails_with(&["exists already"]);
    assert!(!market.provider.dir.join(".backup").exists(), "snapshots are removed");
    let status = market.provider.json(&["status"]);
    assert_eq!(status["last_backup"]["file"], file_name);
    let verify = ["backup", "verify", file_name, "--password-file", password_name];
    let found = market.provider.json(&verify);
    assert_eq!(found["intact"], true);
    assert_eq!(found["manifest"]["files"], made["manifest"]["files"]);
    let promised_then = number(&found["manifest"]["earned_units"]);

    // More is sold, and then the disk dies.
    assert_eq!(sha256(&market.download("/bytes/4000000")), sha256_of(4_000_000));
    let before = market.all_paid(5_000_000);
    let promised = market.consumer.promised();
    assert!(promised > promised_then + owed(3_000_000, PRICE));
    let receipts = |node: &support::Node, session: &str| {
        node.session(session)["receipts_signed_by_both"].as_array().unwrap().clone()
    };
    let session = id(only(&market.consumer.sessions()));
    let signed_before = receipts(&market.provider, &session);
    market.providing.take().unwrap().kill_9();
    let dead = market.path("dead");
    fs::rename(&market.provider.dir, &dead).unwrap();

    let restore = ["backup", "restore", file_name, "--password-file", password_name];
    fs::create_dir(&market.provider.dir).unwrap();
    fs::write(market.provider.dir.join("something"), "of somebody").unwrap();
    market.provider.run(restore).fails_with(&["is not empty", "hint: "]);
    fs::remove_file(market.provider.dir.join("something")).unwrap();
    let restored = market.provider.run(restore);
    assert!(restored.stderr.contains("Never start"), "{restored:?}");
    restored.ok();
    fs::copy(dead.join("password"), market.provider.dir.join("password")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode =
            |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&market.provider.dir), 0o700);
        for name in ["store.sqlite", "keys/wallet.json"] {
            assert_eq!(mode(&market.provider.dir.join(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&file), 0o600);
    }
    assert_eq!(market.provider.promised(), promised_then);

    // It goes on: the consumer tells what it has promised since, and pays for more.
    market.provide();
    until("the consumer to be back", || {
        let mut curl = market.curl(["--fail", "--output", "/dev/null"]);
        curl.arg(market.origin.url("/bytes/1000000"));
        run(curl).status.success().then_some(())
    });
    market.disconnect();
    let after = market.consumer.promised();
    assert!(
        after >= promised + owed(1_000_000, PRICE) - 1,
        "{after} after {promised} for {before} bytes"
    );
    assert_eq!(market.provider.promised(), after, "nothing of what was promised is lost");
    market.provider.settle();
    assert_eq!(market.provider.claimed(), after, "all of it is paid");

    // No two receipts with one number: what the dead disk held, and the consumer holds, is one chain.
    let mut seen = std::collections::BTreeMap::new();
    for session in market.consumer.sessions() {
        for node in [&market.consumer, &market.provider] {
            if node.sessions().iter().any(|known| known["session"] == session["session"]) {
                for receipt in receipts(node, &id(&session)) {
                    assert_eq!(receipt["signatures_valid"], true);
                    let number = number(&receipt["sequence"]);
                    assert_eq!(seen.entry(number).or_insert(receipt.clone()), &receipt);
                }
            }
        }
    }
    for receipt in signed_before {
        assert_eq!(seen.get(&number(&receipt["sequence"])), Some(&receipt), "of the dead disk");
    }
}

#[test]
fn a_consumer_that_was_set_back_asks_its_provider_before_it_signs() {
    let mut market = Market::open();
    market.download("/bytes/1000000");
    let file = market.path("node.backup");
    let secret = market.path("secret");
    fs::copy(&market.consumer.password, &secret).unwrap();
    let backup = |verb: &str| {
        let mut command = market.consumer.command(["backup", verb]);
        command.arg(&file).arg("--password-file").arg(&secret);
        command
    };
    let (create, restore) = (backup("create"), backup("restore"));
    run(create).ok();
    assert_eq!(sha256(&market.download("/bytes/3000000")), sha256_of(3_000_000));
    market.all_paid(4_000_000);
    let promised = market.consumer.promised();
    market.connecting.take().unwrap().kill_9();
    fs::rename(&market.consumer.dir, market.path("dead")).unwrap();
    run(restore).ok();
    fs::copy(&secret, market.consumer.dir.join("password")).unwrap();
    assert!(market.consumer.promised() < promised, "it was set back");

    market.connect();
    market.connected();
    market.download("/bytes/500000");
    market.disconnect();
    let after = market.consumer.promised();
    assert!(after >= promised + owed(500_000, PRICE) - 1, "{after} after {promised}");
    assert_eq!(market.provider.promised(), after);
    assert_eq!(market.consumer.json(&["channel", "list"]).as_array().unwrap().len(), 1);
    let paid_in_all: u128 = market.provider.sessions().iter().map(paid).sum();
    assert_eq!(paid_in_all, after, "no amount was promised twice");
}

#[test]
fn a_consumer_that_was_set_back_leaves_a_channel_whose_provider_has_forgotten_it() {
    let mut market = Market::open();
    market.download("/bytes/1000000");
    market.disconnect();
    let (file, secret) = (market.path("node.backup"), market.path("secret"));
    fs::copy(&market.consumer.password, &secret).unwrap();
    let backup = |verb: &str| {
        let mut command = market.consumer.command(["backup", verb]);
        command.arg(&file).arg("--password-file").arg(&secret);
        command
    };
    let (create, restore) = (backup("create"), backup("restore"));
    run(create).ok();
    let promised = market.consumer.promised();
    fs::rename(&market.consumer.dir, market.path("dead")).unwrap();
    run(restore).ok();
    fs::copy(&secret, market.consumer.dir.join("password")).unwrap();
    market.stop_providing();
    for name in ["store.sqlite", "store.sqlite-wal", "store.sqlite-shm"] {
        let _ = fs::remove_file(market.provider.dir.join(name));
    }
    market.provide();
    market.connect();
    market.connected();
    market.download("/bytes/500000");
    market.disconnect();
    let channels = market.consumer.json(&["channel", "list"]).as_array().unwrap().clone();
    let [a, b] = &channels[..] else { panic!("{channels:#?}") };
    let mut amounts = [number(&a["promised"]), number(&b["promised"])];
    amounts.sort();
    let [less, more] = amounts;
    assert!(
        more == promised && less >= owed(500_000, PRICE),
        "nothing more is signed: {amounts:?}"
    );
}

#[test]
fn backups_that_are_wrong_in_some_way_are_told_in_words_and_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("node");
    fs::create_dir(&dir).unwrap();
    let made = support::wallet_new(&dir);
    assert!(made.stderr.contains("sparewire backup create"), "{made:?}");
    let (file, password) = (root.path().join("backup"), root.path().join("password"));
    fs::write(&password, "a horse\n").unwrap();
    let command = |dir: &std::path::Path, verb: &str, file: &std::path::Path, more: &[&str]| {
        let mut command = sparewire(dir, ["backup", verb]);
        command.arg(file).arg("--password-file").arg(&password).args(more);
        run(command)
    };
    command(&root.path().join("empty"), "create", &file, &[]).fails_with(&["nothing to back up"]);
    command(&dir, "create", &file, &["--without-keys"]).fails_with(&["nothing to back up"]);
    command(&dir, "create", &file, &[]).ok();
    let good = fs::read(&file).unwrap();

    let new = root.path().join("new");
    let mut wrong = sparewire(&new, ["backup", "verify"]);
    let other = root.path().join("other-password");
    fs::write(&other, "a mule\n").unwrap();
    wrong.arg(&file).arg("--password-file").arg(&other);
    run(wrong).fails_with(&["the password is wrong", "hint: "]);
    let altered = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        bytes
    };
    let cases: [(Vec<u8>, &str); 5] = [
        (good[..good.len() - 1].to_vec(), "cut off"),
        (good[..30].to_vec(), "cut off"),
        (altered(good.len() / 2), "altered"),
        (altered(0), "not a sparewire backup"),
        (altered(17), "format version"),
    ];
    for (bytes, words) in cases {
        let bad = root.path().join("bad");
        fs::write(&bad, bytes).unwrap();
        for verb in ["verify", "restore"] {
            command(&new, verb, &bad, &[]).fails_with(&[words, "hint: "]);
        }
        assert_eq!(fs::read_dir(&new).unwrap().count(), 0, "nothing is left of it: {words}");
    }
    let leftovers = fs::read_dir(root.path()).unwrap().flatten();
    let names: Vec<_> = leftovers.map(|entry| entry.file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains(".tmp")), "{names:?}");
    command(&new, "restore", &file, &[]).ok();
    let shown = |dir: &std::path::Path| run(sparewire(dir, ["wallet", "show", "--json"])).json();
    assert_eq!(shown(&new)["keys"], shown(&dir)["keys"]);
}
