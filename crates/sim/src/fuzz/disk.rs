//! What comes back from a disk: databases with damaged values in them. An input is a list of
//! changes, each `column, kind, length` and as many bytes; kinds are nothing, a number, text,
//! bytes, and bytes over a part of what is there (two bytes of offset go before).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, types::Value as Cell};
use serde_json::{Value, json};
use sparewire_chain::{EmbeddedChain, Endpoint, EvmChain, Journal, Place, Policy};
use sparewire_core::{Amount, Signer};
use sparewire_node::store::{SqliteStore, Store, StoreError};
use sparewire_protocol::{
    Role,
    channel::pack_claims,
    settlement::{Chain, ChainError, Intent},
};
use tempfile::TempDir;

use super::{
    assert_tame,
    chain::{NOBODY, contracts, furnish, hasty, open, policy, runtime, wallet},
    seeds,
    wallet::key,
};

/// Longest error.
const WORDS_MAX: usize = 2048;
/// How long a damaged transaction is followed: a few looks.
const PATIENCE: Duration = Duration::from_millis(6);
/// Most changes of one input.
const CHANGES_MAX: usize = 16;

/// A good database, and a place to damage copies of it.
struct Template {
    dir: TempDir,
    bytes: Vec<u8>,
}

impl Template {
    fn new(make: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let path = dir.path().join("good.sqlite");
        make(&path);
        let db = Connection::open(&path).expect("it was just written");
        db.execute_batch("pragma journal_mode = delete; vacuum;").expect("nobody else has it");
        drop(db);
        let bytes = fs::read(&path).expect("it was just written");
        Self { dir, bytes }
    }

    /// A copy with the changes that an input makes to these columns.
    fn damaged(&self, columns: &[(&str, &str)], changes: &[u8]) -> PathBuf {
        for left_over in ["bad.sqlite-wal", "bad.sqlite-shm", "bad.sqlite-journal", "bad.lock"] {
            let _ = fs::remove_file(self.dir.path().join(left_over));
        }
        let path = self.dir.path().join("bad.sqlite");
        fs::write(&path, &self.bytes).expect("there is room for a copy");
        let db = Connection::open(&path).expect("the copy is good so far");
        db.execute_batch("pragma synchronous = off; begin;").expect("nobody else has it");
        let mut rest = changes;
        for _ in 0..CHANGES_MAX {
            let Some((&[column, kind, length], more)) = rest.split_first_chunk() else { break };
            let (bytes, more) = more.split_at(usize::from(length).min(more.len()));
            rest = more;
            let (table, column) = columns[usize::from(column) % columns.len()];
            let _ = change(&db, table, column, kind, bytes); // a unique key may refuse
        }
        db.execute_batch("commit;").expect("the disk has room");
        path
    }
}

fn change(
    db: &Connection,
    table: &str,
    column: &str,
    kind: u8,
    bytes: &[u8],
) -> rusqlite::Result<usize> {
    let text = |bytes: &[u8]| Cell::Text(String::from_utf8_lossy(bytes).into_owned());
    let cell = match kind % 5 {
        0 => Cell::Null,
        1 => {
            let mut number = [0; 8];
            let length = bytes.len().min(8);
            number[..length].copy_from_slice(&bytes[..length]);
            Cell::Integer(i64::from_le_bytes(number))
        }
        2 => text(bytes),
        3 => Cell::Blob(bytes.to_vec()),
        _ => {
            let old = format!("select {column} from {table} where {column} not null limit 1");
            let old: Cell = db.query_row(&old, [], |row| row.get(0))?;
            match old {
                Cell::Blob(old) => Cell::Blob(splice(old, bytes)),
                Cell::Text(old) => text(&splice(old.into_bytes(), bytes)),
                other => other,
            }
        }
    };
    db.execute(&format!("update {table} set {column} = ?"), [cell])
}

fn splice(mut old: Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    let Some((offset, new)) = bytes.split_first_chunk() else { return old };
    let at = usize::from(u16::from_le_bytes(*offset)).min(old.len());
    let end = (at + new.len()).min(old.len());
    old.splice(at..end, new.iter().copied());
    old
}

/// A node's store.
pub fn store_rows(data: &[u8]) {
    const COLUMNS: &[(&str, &str)] = &[
        ("channels", "id"),
        ("channels", "role"),
        ("channels", "domain"),
        ("channels", "config"),
        ("sessions", "id"),
        ("sessions", "channel"),
        ("sessions", "role"),
        ("sessions", "peer"),
        ("sessions", "agreement"),
        ("sessions", "started"),
        ("sessions", "lost"),
        ("sessions", "statement"),
        ("payments", "channel"),
        ("payments", "session"),
        ("payments", "amount"),
        ("payments", "bytes"),
        ("payments", "payment"),
        ("receipts", "channel"),
        ("receipts", "sequence"),
        ("receipts", "session"),
        ("receipts", "receipt"),
        ("receipts", "payee_signature"),
        ("channels", "agreed"),
        ("addresses", "address"),
    ];
    thread_local! {
        static STORE: Template = Template::new(|path| {
            let store = SqliteStore::open(path).expect("a new store");
            store.record(&seeds::records()).expect("good records");
            store.reached(&seeds::peer()).expect("a good address");
        });
    }
    STORE.with(|template| {
        let path = template.damaged(COLUMNS, data);
        if let Err(error) = read_store(&path) {
            assert!(!data.is_empty(), "an undamaged store: {error}");
            // It may repeat a damaged statement's words, control characters among them.
            assert!(error.to_string().len() <= WORDS_MAX, "{error}");
        }
    });
}

fn read_store(path: &Path) -> Result<(), StoreError> {
    let Some(store) = SqliteStore::open_to_read(path)? else { return Ok(()) };
    let mut found = Ok(());
    let mut keep = |result: Result<(), StoreError>| {
        if result.is_err() {
            found = result;
        }
    };
    let agreement = seeds::agreement();
    for role in [Role::Payer, Role::Payee] {
        keep(store.channels(role).map(|channels| {
            for channel in channels {
                let claim = channel.claim();
                assert!(claim.is_none_or(|claim| claim.amount == channel.promised()));
                let agreed = channel.agreed_close();
                assert!(agreed.is_none_or(|(claim, _)| claim.amount <= channel.promised()));
                assert_eq!(pack_claims(claim.as_slice()).len(), usize::from(claim.is_some()));
            }
        }));
    }
    keep(store.channel(agreement.channel()).map(drop));
    keep(store.address(seeds::peer().node).map(drop));
    keep(store.sessions().map(drop));
    keep(store.session(agreement.session).map(drop));
    keep(store.receipts(agreement.session).map(drop));
    for session in [None, Some(agreement.session)] {
        keep(store.memory(agreement.channel(), session).map(|memory| {
            if let Some(session) = memory.session {
                assert_eq!(session.counted, session.paid, "nothing unpaid is remembered");
            }
        }));
    }
    found
}

/// The journal of transactions, and going on with what is unfinished in it.
pub fn journal_rows(data: &[u8]) {
    const COLUMNS: &[(&str, &str)] = &[
        ("owner", "chain_id"),
        ("owner", "wallet"),
        ("intents", "digest"),
        ("intents", "kind"),
        ("intents", "state"),
        ("intents", "reason"),
        ("steps", "intent"),
        ("steps", "target"),
        ("steps", "data"),
        ("steps", "value"),
        ("steps", "state"),
        ("steps", "nonce"),
        ("steps", "hash"),
        ("steps", "block"),
        ("steps", "gas_used"),
        ("steps", "fee_wei"),
        ("attempts", "step"),
        ("attempts", "nonce"),
        ("attempts", "raw"),
        ("attempts", "gas"),
        ("attempts", "max_fee"),
        ("attempts", "tip"),
        ("attempts", "signed_secs"),
    ];
    thread_local! {
        static CHAIN: EmbeddedChain = with_tokens();
        static JOURNAL: Template = Template::new(|path| {
            let deposit = Intent::Deposit { token: contracts().token, amount: AMOUNT };
            let chain = with_tokens();
            let deposited = runtime().block_on(async {
                let chain = connect(&chain, Journal::open(path)?, policy()).await?;
                chain.perform(&deposit).await
            });
            deposited.expect("a chain in memory takes it");
            let db = Connection::open(path).expect("it was just written");
            db.execute_batch(
                "update intents set state = 'open';
                 update steps set state = 'signed';",
            ).expect("nobody else has it");
        });
    }
    JOURNAL.with(|template| {
        let path = template.damaged(COLUMNS, data);
        let journal = match Journal::open(&path) {
            Ok(journal) => journal,
            Err(error) => return assert_tame(&error, WORDS_MAX),
        };
        if let Err(error) = journal.unfinished() {
            assert_tame(&error, WORDS_MAX);
        }
        CHAIN.with(|embedded| {
            let before = embedded.block_number();
            let resumed = runtime().block_on(async {
                let policy = Policy { patience: PATIENCE, ..hasty() };
                let chain = connect(embedded, journal, policy).await?;
                chain.resume().await
            });
            if let Err(error) = resumed {
                assert!(!data.is_empty(), "an undamaged journal: {error}");
                assert_tame(&error, WORDS_MAX);
            }
            let more = embedded.block_number() - before;
            embedded.rollback(more).expect("a few blocks can be taken back");
        });
    });
}

const AMOUNT: Amount = match Amount::new(1_000) {
    Some(amount) => amount,
    None => Amount::ZERO,
};

/// A chain just before the deposit that the journal tells of.
fn with_tokens() -> EmbeddedChain {
    let embedded = open(Place::Memory, false).expect("there is memory for a chain");
    furnish(&embedded);
    let minted = runtime().block_on(async {
        let chain = connect(&embedded, Journal::in_memory()?, policy()).await?;
        chain.mint(contracts().token, chain.wallet(), AMOUNT).await
    });
    minted.expect("a chain in memory takes it");
    embedded
}

async fn connect(
    embedded: &EmbeddedChain,
    journal: Journal,
    policy: Policy,
) -> Result<EvmChain, ChainError> {
    let endpoint = Endpoint::Embedded(embedded.clone());
    EvmChain::connect(endpoint, contracts().domain, Arc::new(wallet()), journal, policy).await
}

/// The embedded chain's own file.
pub fn chain_rows(data: &[u8]) {
    const COLUMNS: &[(&str, &str)] = &[
        ("meta", "value"),
        ("accounts", "address"),
        ("accounts", "balance"),
        ("accounts", "nonce"),
        ("accounts", "code_hash"),
        ("slots", "slot"),
        ("slots", "value"),
        ("code", "hash"),
        ("code", "code"),
        ("blocks", "hash"),
        ("blocks", "header"),
        ("blocks", "tx_hash"),
        ("blocks", "tx"),
        ("blocks", "sender"),
        ("blocks", "receipt"),
        ("undo", "changes"),
        ("logs", "address"),
        ("logs", "topics"),
        ("logs", "data"),
    ];
    thread_local! {
        static CHAIN: Template = Template::new(|path| {
            let chain = open(path.into(), false).expect("a new chain");
            furnish(&chain);
        });
    }
    CHAIN.with(|template| {
        let path = template.damaged(COLUMNS, data);
        let chain = match open(Place::from(path), true) {
            Ok(chain) => chain,
            Err(error) => return assert_tame(&error, WORDS_MAX),
        };
        let (contract, token) = (contracts().domain.contract, contracts().token);
        let call = json!({ "to": contract, "data": "0xf698da25" });
        let questions = [
            ("eth_getBlockByNumber", json!(["latest", true])),
            ("eth_getBlockByNumber", json!(["0x1", true])),
            ("eth_getBlockReceipts", json!(["0x2"])),
            ("eth_feeHistory", json!(["0x4", "latest", [50.0]])),
            ("eth_getLogs", json!([{ "fromBlock": "0x0" }])),
            ("eth_getLogs", json!([{ "fromBlock": "0x0", "address": token }])),
            ("eth_getBalance", json!([key().address(), "0x1"])),
            ("eth_getTransactionCount", json!([key().address(), "latest"])),
            ("eth_getCode", json!([contract, "latest"])),
            ("eth_call", json!([call, "latest"])),
            ("eth_call", json!([call, "0x2"])),
            ("eth_estimateGas", json!([{ "from": key().address(), "to": NOBODY, "value": "0x1" }])),
            ("evm_increaseTime", json!([5])),
            ("evm_mine", json!([])),
            ("evm_setNextBlockTimestamp", json!([super::chain::NOW_SECS + 100])),
            ("evm_mine", json!([])),
        ];
        for (method, params) in questions {
            let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            let answer: Value = chain.handle(request);
            assert!(answer.get("result").is_some() != answer.get("error").is_some(), "{answer}");
            assert!(!data.is_empty() || answer.get("result").is_some(), "{method}: {answer}");
        }
        if let Err(error) = chain.rollback(2) {
            assert!(!data.is_empty(), "an undamaged chain: {error}");
            assert_tame(&error, WORDS_MAX);
        }
    });
}
