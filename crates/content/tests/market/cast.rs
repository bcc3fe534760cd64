//! Who plays: keys, and what they can sign.

use std::sync::{Arc, LazyLock};

use sparewire_core::{
    Address, Amount, B256, ByteCount, DeviceSigner, DeviceStatement, Domain, InfoHash, NodeId,
    Price, SessionId, Signed, Signer, Timestamp, Verified,
};
use sparewire_protocol::{
    ChannelConfig, CreditRule, Delegation, Offer, Reading, Service, Terms, Voucher,
};
use sparewire_wallet::{DeviceKey, LocalKey};

/// The world begins here.
pub(crate) const EPOCH: Timestamp = Timestamp::from_ms(1_800_000_000_000);
/// Most nodes of a world.
pub(crate) const NODES_MAX: usize = 5;
/// How long a payer who leaves waits for its money: the shortest that the contract allows.
pub(crate) const DELAY_SECS: u32 = 900;
/// Chain and contract.
pub(crate) const DOMAIN: Domain = Domain { chain_id: 31_337, contract: Address::repeat_byte(0xcc) };
const TOKEN: Address = Address::repeat_byte(0x70);

pub(crate) fn bytes(count: u64) -> ByteCount {
    ByteCount::new(count)
}

pub(crate) fn units(amount: u128) -> Amount {
    Amount::new(amount).unwrap()
}

pub(crate) fn total(reading: Reading) -> u64 {
    reading.checked_total().unwrap().get()
}

pub(crate) fn owed(price: Price, count: u64) -> u128 {
    price.owed(bytes(count)).unwrap().get()
}

pub(crate) fn session_id(number: u64) -> SessionId {
    SessionId(B256::left_padding_from(&number.to_be_bytes()))
}

pub(crate) fn service() -> Service {
    Service::Content(InfoHash([7; 20].into()))
}

/// Keys and papers of one node.
pub(crate) struct Party {
    pub(crate) device: DeviceKey,
    pub(crate) wallet: LocalKey,
    pub(crate) authorizer: Arc<LocalKey>,
    pub(crate) delegation: Signed<Delegation>,
}

static PARTIES: LazyLock<Vec<Party>> = LazyLock::new(|| {
    let key = |secret| LocalKey::from_secret(&[secret; 32]).unwrap();
    let party = |number: usize| {
        let first = 1 + 3 * number as u8;
        let device = DeviceKey::from_secret(&[first; 32]);
        let (wallet, authorizer) = (key(first + 1), Arc::new(key(first + 2)));
        let delegation = Delegation {
            wallet: wallet.address(),
            device: device.node_id(),
            authorizer: authorizer.address(),
            expiry_secs: EPOCH.plus_ms(1 << 40).as_secs(),
        };
        let delegation = *Verified::sign(delegation, &DOMAIN, &wallet).unwrap().signed();
        Party { device, wallet, authorizer, delegation }
    };
    (0..NODES_MAX).map(party).collect()
});

/// The node of this number.
pub(crate) fn party(number: usize) -> &'static Party {
    &PARTIES[number]
}

impl Party {
    pub(crate) fn device_id(&self) -> NodeId {
        self.device.node_id()
    }

    pub(crate) fn wallet_address(&self) -> Address {
        self.wallet.address()
    }

    pub(crate) fn terms(&self, price: Price, credit: CreditRule, now: Timestamp) -> Terms {
        Terms {
            provider: self.device.node_id(),
            service: service(),
            counting: service().counting(),
            price,
            credit,
            domain: DOMAIN,
            token: TOKEN,
            payee: self.wallet.address(),
            payee_authorizer: self.authorizer.address(),
            withdraw_delay_secs_min: DELAY_SECS,
            channel_min: Amount::ZERO,
            issued: now,
            expires: now.plus_ms(1 << 32),
        }
    }

    pub(crate) fn offer(&self, terms: Terms) -> Offer {
        let signature = self.device.sign_bytes(&terms.signing_bytes());
        Offer { terms, delegation: self.delegation, signature }
    }

    pub(crate) fn channel_to(&self, payee: &Self, salt: u64) -> ChannelConfig {
        ChannelConfig {
            payer: self.wallet.address(),
            payer_authorizer: self.authorizer.address(),
            payee: payee.wallet.address(),
            payee_authorizer: payee.authorizer.address(),
            token: TOKEN,
            withdraw_delay_secs: DELAY_SECS,
            salt,
        }
    }

    pub(crate) fn voucher(&self, config: &ChannelConfig, amount: Amount) -> Signed<Voucher> {
        let voucher = Voucher { channel: config.id(&DOMAIN), amount };
        *Verified::sign(voucher, &DOMAIN, &*self.authorizer).unwrap().signed()
    }
}

pub(crate) fn hello(resume: Option<SessionId>) -> sparewire_protocol::Message {
    sparewire_protocol::Message::Hello { minor: 0, domain: DOMAIN, token: TOKEN, resume }
}
