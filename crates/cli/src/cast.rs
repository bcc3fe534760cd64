//! What evidence is told from in tests: an agreement, what was signed under it, and transactions.

use sparewire_chain::{Part, Spending};
use sparewire_core::{
    Address, Amount, B256, ByteCount, DeviceSigner, DeviceStatement, Domain, Price, SessionId,
    Signed, Signer, Timestamp, TypedData, Verified,
};
use sparewire_protocol::{
    Agreement, ChannelConfig, CountingRule, CreditRule, Delegation, Offer, Payment, Reading,
    Service, Terms, Voucher, settlement::TransactionSummary,
};
use sparewire_wallet::{DeviceKey, LocalKey};

pub(crate) const DOMAIN: Domain = Domain { chain_id: 1, contract: Address::repeat_byte(9) };
/// Whose keys sign.
pub(crate) const PAYER: u8 = 1;
pub(crate) const PAYEE: u8 = 2;
const PAYEE_WALLET: u8 = 3;

pub(crate) fn units(amount: u128) -> Amount {
    Amount::new(amount).unwrap()
}

pub(crate) fn down(bytes: u64) -> Reading {
    Reading { up: ByteCount::ZERO, down: ByteCount::new(bytes) }
}

pub(crate) fn signed<T: TypedData + Copy>(body: T, by: u8) -> Signed<T> {
    let key = LocalKey::from_secret(&[by; 32]).unwrap();
    *Verified::sign(body, &DOMAIN, &key).unwrap().signed()
}

fn provider() -> DeviceKey {
    DeviceKey::from_secret(&[6; 32])
}

pub(crate) fn config(salt: u64) -> ChannelConfig {
    let key = |by| LocalKey::from_secret(&[by; 32]).unwrap().address();
    ChannelConfig {
        payer: Address::repeat_byte(1),
        payer_authorizer: key(PAYER),
        payee: key(PAYEE_WALLET),
        payee_authorizer: key(PAYEE),
        token: Address::repeat_byte(5),
        withdraw_delay_secs: 900,
        salt,
    }
}

/// Session `id` over the channel with this salt, at a unit for each byte, after `base` was promised.
pub(crate) fn agreement(id: u8, salt: u64, base: u128) -> Agreement {
    let config = config(salt);
    let terms = Terms {
        provider: provider().node_id(),
        service: Service::ExitTcp,
        counting: CountingRule::StreamPayload,
        price: Price::per_gib(1 << 30).unwrap(),
        credit: CreditRule::default(),
        domain: DOMAIN,
        token: config.token,
        payee: config.payee,
        payee_authorizer: config.payee_authorizer,
        withdraw_delay_secs_min: 900,
        channel_min: Amount::ZERO,
        issued: Timestamp::from_ms(1),
        expires: Timestamp::from_ms(2),
    };
    let session = SessionId(B256::repeat_byte(id));
    Agreement { session, config, terms, base: units(base), history: ByteCount::ZERO }
}

/// The terms as the provider signed them.
pub(crate) fn offer(agreement: &Agreement) -> Offer {
    let terms = agreement.terms;
    let delegation = Delegation {
        wallet: terms.payee,
        device: terms.provider,
        authorizer: terms.payee_authorizer,
        expiry_secs: 9,
    };
    let signature = provider().sign_bytes(&terms.signing_bytes());
    Offer { terms, delegation: signed(delegation, PAYEE_WALLET), signature }
}

/// The payment for so many bytes of a session.
pub(crate) fn payment(agreement: &Agreement, bytes: u64) -> Payment {
    let amount = units(agreement.base.get() + u128::from(bytes));
    let voucher = signed(Voucher { channel: agreement.channel(), amount }, PAYER);
    Payment { session: agreement.session, reading: down(bytes), voucher }
}

/// A transaction that succeeded; claims pay out.
pub(crate) fn spending(
    kind: &str,
    signed_secs: u64,
    fee_wei: u128,
    parts: &[(u64, u128)],
) -> Spending {
    let parts = parts
        .iter()
        .map(|(salt, amount)| Part { channel: config(*salt).id(&DOMAIN), amount: units(*amount) });
    Spending {
        kind: kind.into(),
        signed_secs,
        transaction: TransactionSummary { hash: B256::ZERO, block: 1, gas_used: 2, fee_wei },
        succeeded: true,
        sweeps: kind == "claim",
        parts: parts.collect(),
    }
}
