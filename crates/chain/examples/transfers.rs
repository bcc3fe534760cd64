//! How many simple value transfers a second the embedded chain executes and persists:
//! `cargo run --release -p sparewire-chain --example transfers [COUNT]`.

use std::time::Instant;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, Signature, TxKind, U256, keccak256};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use sparewire_chain::{EmbeddedChain, Genesis, Options, Place};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u64 = std::env::args().nth(1).map_or(Ok(10_000), |count| count.parse())?;
    let key = SecretKey::from_byte_array([7; 32])?;
    let public = PublicKey::from_secret_key(SECP256K1, &key).serialize_uncompressed();
    let sender = Address::from_slice(&keccak256(&public[1..])[12..]);
    let transactions = (0..count)
        .map(|nonce| {
            let transaction = TxEip1559 {
                chain_id: 7357,
                nonce,
                gas_limit: 21_000,
                max_fee_per_gas: 2_000_000_000,
                // A new account each time: the state grows as it would with real payees.
                to: TxKind::Call(Address::from_word(keccak256(nonce.to_be_bytes()))),
                value: U256::ONE,
                ..TxEip1559::default()
            };
            let digest = Message::from_digest(transaction.signature_hash().0);
            let (id, rs) = SECP256K1.sign_ecdsa_recoverable(digest, &key).serialize_compact();
            let signature = Signature::from_bytes_and_parity(&rs, i32::from(id) & 1 == 1);
            TxEnvelope::from(transaction.into_signed(signature)).encoded_2718()
        })
        .collect::<Vec<_>>();

    let dir = tempfile::tempdir()?;
    for place in [Place::from(dir.path().join("chain")), Place::Memory] {
        let wei = U256::from(10).pow(U256::from(24));
        let genesis = Genesis::new(7357).fund(sender, wei);
        let chain = EmbeddedChain::open(place.clone(), genesis.clone(), Options::default())?;
        let started = Instant::now();
        for transaction in &transactions {
            chain.submit(transaction)?;
        }
        let secs = started.elapsed().as_secs_f64();
        let name = if place == Place::Memory { "in memory" } else { "on disk" };
        println!("{name}: {count} transfers in {secs:.2} s, {:.0} a second", count as f64 / secs);
        drop(chain);
        if let Place::File(path) = &place {
            let bytes = std::fs::metadata(path)?.len();
            let started = Instant::now();
            EmbeddedChain::open(path, genesis, Options::default())?;
            let secs = started.elapsed().as_secs_f64();
            println!("on disk: {} bytes a block, opened again in {secs:.3} s", bytes / count);
        }
    }
    Ok(())
}
