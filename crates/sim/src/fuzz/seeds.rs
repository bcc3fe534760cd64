//! Good inputs to begin with, made by the program itself. `cargo test -p sparewire-sim --test
//! corpora -- --ignored` writes them into the corpora, after a format changed.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxEip7702, TxEnvelope, TxLegacy};
use alloy_eips::{
    eip2718::Encodable2718,
    eip2930::AccessListItem,
    eip7702::{Authorization, SignedAuthorization},
};
use alloy_primitives::{Signature as AlloySignature, TxKind, hex};
use alloy_sol_types::{Panic, Revert, SolCall, SolError};
use serde_json::json;
use sparewire_chain::contracts::{Channels, TestToken};
use sparewire_core::{
    Amount, B256, ByteCount, DeviceSigner, DeviceStatement, Domain, Price, SessionId, Signature,
    Signed, Signer, Timestamp, TypedData, U256, Verified, encode,
};
use sparewire_node::{
    refusal::{Refusal, RefusalKind},
    target::Target,
    transport::PeerAddress,
};
use sparewire_protocol::{
    Acceptance, Accepted, AgreedClose, Agreement, Appointment, CloseMessage, CloseRequest,
    Countersigned, CountingRule, CreditRule, Delegation, Entrust, Kept, Message, Offer, Payment,
    Reading, Receipt, Record, RefusalCode, Refused, Role, Service, Statement, Terms, TowersDomain,
    Voucher, WatchMessage, WatchRefusal, WatchRefused, channel::CooperativeClose,
};
use sparewire_wallet::{
    Contract, Cost, DeviceKey, Keystore, Mnemonic, OfflineRequest, Payload, Secret,
};

use super::{
    chain::{CHAIN_ID, NOBODY, config, contracts, wallet},
    wallet::{PASSWORD, key},
};

const NOW: Timestamp = Timestamp::from_ms(1_800_000_000_000);
const WORDS: &str = "test test test test test test test test test test test junk";

fn device() -> DeviceKey {
    DeviceKey::from_secret(&[9; 32])
}

/// Where somebody is.
pub(super) fn peer() -> PeerAddress {
    let text = format!("{}@127.0.0.1:4433", device().node_id());
    text.parse().expect("an address")
}

fn units(units: u128) -> Amount {
    Amount::new(units).expect("in range")
}

fn domain() -> Domain {
    contracts().domain
}

fn session() -> SessionId {
    SessionId(B256::repeat_byte(3))
}

fn sign<T: TypedData + Copy>(body: T) -> Signed<T> {
    *Verified::sign(body, &domain(), key()).expect("the key is here").signed()
}

fn terms() -> Terms {
    let config = config();
    Terms {
        provider: device().node_id(),
        service: Service::ExitTcp,
        counting: CountingRule::StreamPayload,
        price: Price::per_gib(20_000).expect("in range"),
        credit: CreditRule::default(),
        domain: domain(),
        token: config.token,
        payee: config.payee,
        payee_authorizer: config.payee_authorizer,
        withdraw_delay_secs_min: 900,
        channel_min: units(10_000),
        issued: NOW,
        expires: NOW.plus_ms(3_600_000),
    }
}

/// What the session here is about.
pub(super) fn agreement() -> Agreement {
    Agreement {
        session: session(),
        config: config(),
        terms: terms(),
        base: units(1_000),
        history: ByteCount::MIB,
    }
}

pub(super) fn delegation() -> Signed<Delegation> {
    sign(Delegation {
        wallet: key().address(),
        device: device().node_id(),
        authorizer: key().address(),
        expiry_secs: 1_900_000_000,
    })
}

fn reading() -> Reading {
    Reading { up: ByteCount::MIB, down: ByteCount::new(15 << 20) }
}

fn payment() -> Payment {
    let agreement = agreement();
    let amount = agreement.owed(reading()).expect("in range");
    let voucher = sign(Voucher { channel: agreement.channel(), amount });
    Payment { session: agreement.session, reading: reading(), voucher }
}

fn receipt(sequence: u64) -> Countersigned {
    let receipt = sign(Receipt {
        channel: agreement().channel(),
        session: session(),
        sequence,
        reading: reading(),
        amount: payment().voucher.body.amount,
        previous: B256::ZERO,
        time: NOW,
    });
    Countersigned { receipt, payee_signature: receipt.signature }
}

fn offer() -> Offer {
    let signature = device().sign_bytes(&terms().signing_bytes());
    Offer { terms: terms(), delegation: delegation(), signature }
}

fn acceptance() -> Acceptance {
    Acceptance {
        session: session(),
        terms_hash: terms().hash(),
        channel: config(),
        delegation: delegation(),
        reading: reading(),
        up_max: ByteCount::GIB,
        payment: Some(payment()),
        receipt: Some(receipt(1)),
        pending: Some(receipt(2).receipt),
    }
}

fn accepted() -> Accepted {
    Accepted {
        session: session(),
        reading: reading(),
        base: units(1_000),
        history: ByteCount::MIB,
        payment: Some(payment()),
        receipt: Some(receipt(1)),
    }
}

fn refused() -> Refused {
    Refused { code: RefusalCode::Busy, reason: "come back later".into() }
}

/// What a store was told of a session.
pub(super) fn records() -> Vec<Record> {
    let agreement = agreement();
    let channel = agreement.channel();
    let statement = Statement {
        role: Role::Payee,
        session: session(),
        channel,
        counted: reading(),
        receipted: reading(),
        price: agreement.terms.price,
        paid: units(312),
        cumulative: payment().voucher.body.amount,
        payments: 4,
        receipts: 1,
        exposure_peak: ByteCount::KIB,
        exposure_bound: ByteCount::MIB,
        ended: NOW,
    };
    let (role, peer, started) = (Role::Payee, device().node_id(), NOW);
    let resumable = Agreement { session: SessionId(B256::repeat_byte(4)), ..agreement.clone() };
    vec![
        Record::Session { role, peer, agreement, started },
        Record::Session { role, peer, agreement: resumable, started },
        Record::Payment { channel, payment: payment() },
        Record::Receipt {
            receipt: receipt(1).receipt,
            payee_signature: Some(receipt(1).payee_signature),
        },
        Record::Receipt { receipt: receipt(2).receipt, payee_signature: None },
        Record::Loss { session: session(), bytes: ByteCount::KIB },
        Record::Ended(statement),
        Record::Agreed { channel, close: agreed().close },
    ]
}

fn messages() -> Vec<Message> {
    let signature = device().sign_bytes(&acceptance().signing_bytes());
    vec![
        Message::Hello { minor: 1, domain: domain(), token: NOBODY, resume: Some(session()) },
        Message::Hello { minor: 0, domain: domain(), token: NOBODY, resume: None },
        Message::Offer(Box::new(offer())),
        Message::Accept { acceptance: Box::new(acceptance()), signature },
        Message::Accepted(Box::new(accepted())),
        Message::Refused(refused()),
        Message::Payment { payment: payment(), receipt: Some(receipt(1).receipt) },
        Message::Payment { payment: payment(), receipt: None },
        Message::Countersignature { sequence: 1, signature: receipt(1).payee_signature },
        Message::Report { reading: reading(), credit: ByteCount::MIB, last: false },
        Message::Abort { stream: 4 },
        Message::Broken { stream: 8 },
        Message::Flow { stream: 8, paused: true },
        Message::Due { reading: reading() },
        Message::Funded,
        Message::Close { reason: "done".into() },
    ]
}

/// What a payee and its watchtower say.
fn watched() -> [WatchMessage; 3] {
    let appointment = Appointment {
        channel: agreement().channel(),
        amount: payment().voucher.body.amount,
        payee: config().payee,
        token: config().token,
        reward: units(3),
        expiry_secs: NOW.as_secs() + 86_400,
    };
    let towers = TowersDomain { chain_id: domain().chain_id, contract: NOBODY };
    let entrust = Entrust {
        domain: domain(),
        towers: towers.contract,
        config: config(),
        voucher: payment().voucher,
        appointment: appointment.sign(&towers, key()).expect("the key is here"),
        turn: 1,
        turns: 3,
    };
    let kept = Kept {
        tower: device().node_id(),
        client: device().node_id(),
        domain: domain(),
        channel: entrust.channel(),
        amount: entrust.amount(),
        reward: appointment.reward,
        expiry_secs: appointment.expiry_secs,
        turn: (entrust.turn, entrust.turns),
        time: NOW,
    };
    let signature = device().sign_bytes(&kept.signing_bytes());
    [
        WatchMessage::Entrust(entrust),
        WatchMessage::Kept { kept, signature },
        WatchMessage::Refused(WatchRefused::new(WatchRefusal::Older, "a newer one is kept")),
    ]
}

/// The close of the channel here, agreed on at what was paid over it.
fn agreed() -> AgreedClose {
    let (channel, payment) = (agreement().channel(), payment());
    let close = sign(CooperativeClose { channel, amount: payment.voucher.body.amount });
    AgreedClose { close, payment: Some(payment) }
}

fn close_messages() -> Vec<CloseMessage> {
    let (config, delegation) = (config(), delegation());
    let request = |payment| CloseRequest { domain: domain(), config, delegation, payment };
    vec![
        CloseMessage::Ask(request(Some(payment()))),
        CloseMessage::Ask(request(None)),
        CloseMessage::Agreed(agreed()),
        CloseMessage::Refused(refused()),
    ]
}

fn values() -> Vec<Vec<u8>> {
    let signature: Signature = payment().voucher.signature;
    let close = CooperativeClose { channel: agreement().channel(), amount: units(5) };
    let encoded = [
        encode(&terms()),
        encode(&offer()),
        encode(&acceptance()),
        encode(&accepted()),
        encode(&refused()),
        encode(&RefusalCode::Invalid),
        encode(&payment()),
        encode(&receipt(1).receipt),
        encode(&receipt(1)),
        encode(&payment().voucher),
        encode(&close),
        encode(&delegation()),
        encode(&config()),
        encode(&CreditRule::default()),
        encode(&agreement()),
        encode(&domain()),
        encode(&units(7)),
        encode(&terms().price),
        encode(&signature),
        encode(&offer().signature),
        encode(&Service::ExitTcp),
        encode(&CountingRule::StreamPayload),
        encode(&(ByteCount::MIB, NOW)),
        encode(&(close.channel, session())),
        encode(&device().node_id()),
        encode(&Target::parse("example.com:443").expect("a destination")),
        encode(&Refusal::new(RefusalKind::Busy, "later")),
        encode(&RefusalKind::Policy),
    ];
    (0u8..).zip(encoded).map(|(kind, bytes)| [&[kind][..], &bytes].concat()).collect()
}

fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn with_head(head: &[u8], bodies: &[&str]) -> Vec<Vec<u8>> {
    let seeds = head
        .iter()
        .flat_map(|head| bodies.iter().map(move |body| [&[*head][..], body.as_bytes()].concat()));
    seeds.collect()
}

fn keystores() -> Vec<Vec<u8>> {
    let mnemonic = || WORDS.parse::<Mnemonic>().expect("good words");
    let seal = |secret| {
        let sealed = Keystore::encrypt(&secret, PASSWORD, Cost::INSECURE);
        sealed.expect("a password").to_json().into_bytes()
    };
    let pbkdf2 = json!({
        "version": 3, "id": "", "crypto": {
            "cipher": "aes-128-ctr", "cipherparams": { "iv": "6087dab2f9fdbbfaddc31a909735c1e6" },
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2", "mac": B256::ZERO,
            "kdfparams": { "c": 2, "dklen": 32, "prf": "hmac-sha256", "salt": "ae3c" } } });
    vec![
        seal(Secret::Key(wallet())),
        seal(Secret::Device(device())),
        seal(Secret::Mnemonic(mnemonic())),
        pbkdf2.to_string().into_bytes(),
    ]
}

fn offline_requests() -> Vec<OfflineRequest> {
    let delegation = delegation().body;
    let words = vec![
        delegation.wallet.into_word(),
        delegation.device.0,
        delegation.authorizer.into_word(),
        B256::left_padding_from(&delegation.expiry_secs.to_be_bytes()),
    ];
    let signer = key().address();
    let typed = OfflineRequest::typed_data(
        &delegation,
        words,
        Contract::Channels,
        domain(),
        signer,
        "until March",
    );
    let new = |payload| OfflineRequest::new(payload, signer, "it").expect("a good payload");
    vec![
        typed.expect("its words"),
        new(Payload::Digest { digest: B256::repeat_byte(1) }),
        new(Payload::Transaction { unsigned: hex!("02c0").into() }),
    ]
}

fn requests() -> Vec<Vec<u8>> {
    let (owner, contract) = (key().address(), domain().contract);
    let call = json!({ "from": owner, "to": contract, "data": "0xf698da25" });
    let code = json!({ "data": "0x60016000f3", "gas": "0x10000", "gasPrice": "0x1" });
    let authorized = json!({ "to": contract, "authorizationList": [{
        "chainId": "0x5357", "address": owner, "nonce": "0x0", "yParity": "0x1",
        "r": B256::repeat_byte(1), "s": B256::repeat_byte(2) }] });
    let listed = json!({ "to": contract, "input": "0x", "value": "0x1",
        "accessList": [{ "address": owner, "storageKeys": [B256::ZERO] }],
        "maxFeePerGas": "0x2", "maxPriorityFeePerGas": "0x1" });
    let filter = json!({ "fromBlock": "0x0", "toBlock": "latest", "address": [contract, owner],
        "topics": [null, [B256::ZERO]] });
    let asked = [
        ("web3_clientVersion", json!([])),
        ("web3_sha3", json!(["0x00ff"])),
        ("net_version", json!([])),
        ("eth_chainId", json!(null)),
        ("eth_blockNumber", json!([])),
        ("eth_gasPrice", json!([])),
        ("eth_feeHistory", json!(["0x4", "latest", [10.0, 90.5]])),
        ("eth_getBalance", json!([owner, "latest"])),
        ("eth_getTransactionCount", json!([owner, { "blockNumber": "0x1" }])),
        ("eth_getCode", json!([contract, "earliest"])),
        ("eth_getStorageAt", json!([contract, "0x0", "0x2"])),
        ("eth_call", json!([call, "latest"])),
        ("eth_call", json!([authorized])),
        ("eth_estimateGas", json!([code, "pending", null])),
        ("eth_estimateGas", json!([listed])),
        ("eth_sendRawTransaction", json!(["0x02c0"])),
        ("eth_getTransactionByHash", json!([B256::ZERO])),
        ("eth_getTransactionReceipt", json!([B256::ZERO])),
        ("eth_getBlockReceipts", json!(["0x2"])),
        ("eth_getBlockByNumber", json!(["0x1", true])),
        ("eth_getBlockByHash", json!([B256::ZERO, false])),
        ("eth_getBlockTransactionCountByNumber", json!(["safe"])),
        ("eth_getLogs", json!([filter])),
        ("eth_getLogs", json!([{ "blockHash": B256::ZERO }])),
        ("evm_mine", json!([1_800_000_100])),
        ("evm_increaseTime", json!(["0x10"])),
        ("evm_setNextBlockTimestamp", json!([1_800_000_200])),
        ("evm_snapshot", json!([])),
        ("evm_revert", json!(["0x1"])),
    ];
    let request = |id: usize, (method, params): &(&str, serde_json::Value)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let mut seeds: Vec<_> = asked.iter().map(|asked| request(1, asked).to_string()).collect();
    let batch: Vec<_> = asked.iter().enumerate().map(|(id, asked)| request(id, asked)).collect();
    seeds.push(serde_json::Value::from(&batch[..5]).to_string());
    seeds.push(serde_json::Value::from(&batch[24..]).to_string());
    seeds.push(r#"{"jsonrpc":"2.0","method":"eth_chainId"}"#.into());
    seeds.into_iter().map(String::into_bytes).collect()
}

fn signed<T>(transaction: T) -> Vec<u8>
where
    T: SignableTransaction<AlloySignature>,
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = key().sign_digest(transaction.signature_hash()).expect("the key is here");
    let bytes = signature.to_bytes();
    let (r, s) = (U256::from_be_slice(&bytes[..32]), U256::from_be_slice(&bytes[32..64]));
    let signed = transaction.into_signed(AlloySignature::new(r, s, bytes[64] == 28));
    TxEnvelope::from(signed).encoded_2718()
}

fn transactions() -> Vec<Vec<u8>> {
    // The nonce after all that furnishes a chain.
    let (chain_id, nonce, gas_limit) = (CHAIN_ID, 6, 100_000);
    let (to, value) = (TxKind::Call(NOBODY), U256::from(5));
    let plain = TxEip1559 { chain_id, nonce, gas_limit, to, value, ..Default::default() };
    let sweep = Channels::sweepCall { payee: NOBODY, token: contracts().token }.abi_encode();
    let (contract, code) = (TxKind::Call(domain().contract), hex!("60016000f3"));
    let access_list = vec![AccessListItem { address: NOBODY, storage_keys: vec![B256::ZERO] }];
    let authorization = Authorization { chain_id: U256::ZERO, address: NOBODY, nonce: 0 };
    let authorized = SignedAuthorization::new_unchecked(authorization, 0, U256::ONE, U256::ONE);
    vec![
        signed(plain.clone()),
        signed(TxEip1559 { to: contract, input: sweep.into(), ..plain.clone() }),
        // Of no use to us; with another signature it is somebody's first.
        signed(TxEip1559 { nonce: 0, value: U256::ZERO, ..plain.clone() }),
        signed(TxEip1559 {
            nonce: 0,
            value: U256::ZERO,
            to: TxKind::Create,
            input: code.into(),
            ..plain.clone()
        }),
        signed(TxEip1559 { to: TxKind::Create, input: code.into(), ..plain }),
        signed(TxLegacy { chain_id: Some(chain_id), nonce, gas_limit, to, ..Default::default() }),
        signed(TxLegacy { nonce, gas_limit, to, ..Default::default() }),
        signed(TxEip2930 {
            chain_id,
            nonce,
            gas_limit,
            to,
            access_list: access_list.into(),
            ..Default::default()
        }),
        signed(TxEip7702 {
            chain_id,
            nonce,
            gas_limit,
            to: NOBODY,
            authorization_list: vec![authorized],
            ..Default::default()
        }),
    ]
}

fn reverts() -> Vec<Vec<u8>> {
    let channel = agreement().channel().0;
    let (payer, token) = (NOBODY, NOBODY);
    let (one, two) = (U256::ONE, U256::from(2));
    vec![
        Revert::from("no").abi_encode(),
        Panic { code: U256::from(0x11) }.abi_encode(),
        Channels::ChannelUnknown { channelId: channel }.abi_encode(),
        Channels::DepositTooSmall { payer, token, available: one, needed: two }.abi_encode(),
        Channels::AmountAboveReserved { channelId: channel, amount: two, reserved: one }
            .abi_encode(),
        TestToken::ERC20InsufficientBalance { sender: NOBODY, balance: one, needed: two }
            .abi_encode(),
        TestToken::ERC20InvalidReceiver { receiver: NOBODY }.abi_encode(),
        vec![1, 2],
    ]
}

fn answers() -> Vec<Vec<u8>> {
    let block = r#"{"number":"0x10","timestamp":"0x6b49d200","baseFeePerGas":"0x3b9aca00"}"#;
    let old = r#"{"number":"0x10","timestamp":"0x6b49d200"}"#;
    let word = |last: u8| json!(B256::with_last_byte(last)).to_string();
    let state = [[0; 31].as_slice(), &[9], &[0; 31], &[3], &[0; 31], &[1], &[0; 32]].concat();
    let state = json!(hex::encode_prefixed(state)).to_string();
    let symbol = [[0; 31].as_slice(), &[32], &[0; 31], &[4], b"USDC", &[0; 28]].concat();
    let symbol = json!(hex::encode_prefixed(symbol)).to_string();
    let reverted = json!({ "code": 3, "message": "execution reverted",
        "data": hex::encode_prefixed(Revert::from("no").abi_encode()) });
    let reverted = format!("!{reverted}");
    let hash = json!(B256::repeat_byte(1)).to_string();
    let receipt = r#"{"blockNumber":"0x10","status":"0x1","gasUsed":"0x5208","effectiveGasPrice":"0x1","l1Fee":"0x5"}"#;
    let failed = r#"{"blockNumber":"0x10","status":"0x0","gasUsed":"0x5208"}"#;
    let (one, poor) = (word(1), r#"!{"code":-32000,"message":"insufficient funds for gas"}"#);
    let whole = r#"@{"jsonrpc":"2.0","id":0,"result":null}"#;
    let nested = r#"!{"code":-32015,"message":"VM execution error.","data":"Reverted 0x08c379a0"}"#;
    let wei = "\"0xde0b6b3a7640000\"";
    let scripts: [(u8, &[&str]); 18] = [
        (0, &[block]),
        (0, &[whole]),
        (1, &[block, &state]),
        (1, &[block, "\"0x\"", "\"0x\""]),
        (1, &[block, &reverted]),
        (2, &[block, wei, &one, &one, &one]),
        (3, &[block, &word(6), &symbol]),
        (3, &[block, &word(6), &one]),
        (3, &[block, nested]),
        (
            4,
            &[
                block,
                "\"0x5357\"",
                "\"0x01\"",
                block,
                &json!(domain().separator()).to_string(),
                block,
                block,
            ],
        ),
        (4, &["null", "\"0x5358\""]),
        (
            5,
            &[
                block,
                &one,
                "\"0x5208\"",
                block,
                "\"0x1\"",
                wei,
                "\"0x0\"",
                &hash,
                block,
                "null",
                "\"0x0\"",
            ],
        ),
        (5, &[block, &word(255), &reverted]),
        (6, &[block, wei, &one, &one, &one, &reverted]),
        (
            6,
            &[
                block,
                wei,
                &one,
                &one,
                &one,
                "\"0x5208\"",
                old,
                "\"0x1\"",
                wei,
                "\"0x0\"",
                &hash,
                block,
                receipt,
            ],
        ),
        (
            7,
            &[
                "\"0x5208\"",
                block,
                "\"0x1\"",
                wei,
                "\"0x0\"",
                &hash,
                block,
                receipt,
                block,
                receipt,
            ],
        ),
        (7, &["\"0x5208\"", block, "\"0x1\"", wei, "\"0x0\"", &hash, block, failed, nested]),
        (7, &[poor, wei]),
    ];
    let seeds = scripts.iter();
    seeds
        .map(|(question, lines)| [&[*question][..], lines.join("\n").as_bytes()].concat())
        .collect()
}

/// Good inputs of one target; none for a name that is no target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let node = device().node_id();
    match target {
        "frame" => {
            let frames = messages().iter().map(Message::to_frame).collect::<Vec<_>>();
            let watch = watched().iter().map(WatchMessage::to_frame).collect();
            let close = close_messages().iter().map(CloseMessage::to_frame).collect();
            let frames = [frames, watch, close].concat();
            frames.iter().map(|frame| frame[4..].to_vec()).collect()
        }
        "values" => values(),
        "stream_heads" => {
            let targets = ["example.com:443", "1.2.3.4:80", "[2001:db8::1]:8080"];
            let requests = targets.map(|text| {
                let target = Target::parse(text).expect("a destination");
                encode(&(0u8, (1u8, target)))
            });
            let refusal = Refusal::new(RefusalKind::Unreachable, "no route");
            let replies = [encode(&(1u8, 0u8)), encode(&(1u8, (1u8, refusal)))];
            requests.into_iter().chain(replies).collect()
        }
        "units" => {
            let texts = ["64 KiB", "1.5MiB", "12.5", "0.02/GiB", "\"1000\"", "[7,1800000000000]"];
            with_head(&[0, 6, 18], &texts)
        }
        "names" => lines(&[
            &key().address().to_string(),
            &B256::repeat_byte(0xab).to_string(),
            &node.to_string(),
            &json!(key().address()).to_string(),
        ]),
        "peer_address" => lines(&[
            &format!("{node}@127.0.0.1:4433"),
            &format!(" {node}@127.0.0.1:4433, [2001:db8::1%3]:4433 "),
        ]),
        "target" => {
            let mut seeds = lines(&[
                "example.com:443",
                "WWW.Example.com.:80",
                "0x7f.1:80",
                "017700000001",
                "[::ffff:1.2.3.4]:443",
                "1.2.3.4",
            ]);
            for text in ["example.com:443", "1.2.3.4:80", "[2001:db8::1]:8080"] {
                seeds.push(encode(&Target::parse(text).expect("a destination")));
            }
            seeds
        }
        "exit_rules" => lines(&[
            "example.com:443",
            "10.0.0.0/8:*",
            "[2001:db8::/32]:80",
            "192.168.1.2:22",
            "*.example.com",
        ]),
        "socks" => vec![
            b"\x01\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50".to_vec(),
            b"\x02\x02\x00\x05\x01\x00\x03\x0bexample.com\x01\xbb".to_vec(),
            b"\x01\x00\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50".to_vec(),
            b"\x01\x00\x05\x03\x00\x01\x01\x02\x03\x04\x00\x50".to_vec(),
            b"\x01\x02".to_vec(),
        ],
        "http_connect" => lines(&[
            "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
            "CONNECT [2001:db8::1]:80 HTTP/1.0\r\n\r\nmore",
            "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ]),
        "keystore" => keystores(),
        "mnemonic" => vec![WORDS.as_bytes().to_vec(), vec![7; 16], vec![0xff; 32]],
        "offline_request" => {
            offline_requests().iter().map(|request| request.to_json().into_bytes()).collect()
        }
        "offline_response" => {
            let responses = offline_requests();
            let responses = responses.iter().map(|request| request.sign(key()));
            responses.map(|it| it.expect("the right key").to_json().into_bytes()).collect()
        }
        "rpc" => requests(),
        "raw_transaction" => transactions(),
        "revert_reason" => reverts(),
        "node_answers" => answers(),
        "store_rows" | "journal_rows" | "chain_rows" => {
            let mut seeds = vec![Vec::new()];
            for column in 0..24 {
                seeds.push(vec![column, 0, 0]);
                seeds.push(vec![column, 1, 8, 255, 255, 255, 255, 255, 255, 255, 255]);
                seeds.push(vec![column, 2, 3, b'1', b'2', b'3']);
                seeds.push(vec![column, 3, 4, 1, 2, 3, 4]);
                seeds.push(vec![column, 4, 4, 2, 0, 255, 254]);
            }
            seeds
        }
        "metainfo" => super::torrent::torrents(),
        "magnet" => super::torrent::links(),
        "tracker_answer" => super::torrent::answers(),
        "peer_wire" => super::content::streams(),
        "content_extension" => super::content::bindings(),
        "meter" => vec![vec![0, 0, 100, 1, 60, 0, 60, 3, 120, 2, 50, 3, 10, 1, 1]],
        // Price, credit, channel and start; then bytes carried, paid for, receipted, and the end.
        "payee" => {
            let start = [2, 0x80, 16, 0, 0x80, 16, 0, 0xd0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0];
            let paid = [0, 0x81, 0, 0x82, 0, 4, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 9, 5];
            vec![start.to_vec(), [&start[..], &paid, &paid, &[12, 12]].concat()]
        }
        "payer" => {
            let start = [2, 0x80, 16, 0, 0x80, 16, 0, 0xd0, 0, 16, 0, 0, 0, 0];
            let live = [0, 0, 5, 0, 0, 0, 0];
            let paid = [1, 0x90, 0, 0xa0, 0, 5, 0, 0, 9, 11, 7, 0, 0];
            let end = [12, 5, 0, 1, 7, 0, 0];
            vec![start.to_vec(), [&start[..], &live, &paid, &paid, &end].concat()]
        }
        // A seed, nobody's vice, traffic; then a vice of either side.
        "session" => (0..3)
            .map(|vice| {
                let vice = [0, 0x80, 0x81][vice];
                vec![0, 1, vice, 9, 9, 0, 0, 60, 90, 50, 50, 15, 1, 9, 0, 50, 50, 1, 1, 9, 80]
            })
            .collect(),
        _ => Vec::new(),
    }
}
