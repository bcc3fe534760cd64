//! Who plays: keys, terms, channel, and everything that they can sign.

use std::sync::Arc;

use sparewire_core::{
    Address, Amount, B256, ByteCount, DeviceSignature, DeviceSigner, DeviceStatement, Domain,
    Price, SessionId, Signed, Signer, Timestamp, TypedData, Verified,
};
use sparewire_protocol::{
    Acceptance, ChannelConfig, ChannelFacts, Countersigned, CountingRule, CreditRule, Delegation,
    Memory, Offer, PayeeSetup, PayerSetup, Payment, Reading, Receipt, Service, Terms, Voucher,
};
use sparewire_wallet::{DeviceKey, LocalKey};

/// The world begins here.
pub(crate) const EPOCH: Timestamp = Timestamp::from_ms(1_800_000_000_000);
pub(crate) const DAY_MS: u64 = 86_400_000;

pub(crate) fn bytes(count: u64) -> ByteCount {
    ByteCount::new(count)
}

pub(crate) fn units(amount: u128) -> Amount {
    Amount::new(amount).unwrap()
}

pub(crate) fn reading(up: u64, down: u64) -> Reading {
    Reading { up: bytes(up), down: bytes(down) }
}

pub(crate) fn total(reading: Reading) -> u64 {
    reading.checked_total().unwrap().get()
}

pub(crate) fn session_id(number: u64) -> SessionId {
    SessionId(B256::left_padding_from(&number.to_be_bytes()))
}

/// Keys and papers of both parties.
pub(crate) struct Cast {
    pub(crate) consumer: DeviceKey,
    pub(crate) provider: DeviceKey,
    pub(crate) payer_wallet: LocalKey,
    pub(crate) payee_wallet: LocalKey,
    pub(crate) payer: Arc<LocalKey>,
    pub(crate) payee: Arc<LocalKey>,
    pub(crate) domain: Domain,
    pub(crate) terms: Terms,
    pub(crate) config: ChannelConfig,
}

pub(crate) fn local_key(seed: u8) -> LocalKey {
    LocalKey::from_secret(&[seed; 32]).unwrap()
}

impl Cast {
    pub(crate) fn new(price: Price, credit: CreditRule) -> Self {
        let (payer_wallet, payee_wallet) = (local_key(1), local_key(2));
        let (payer, payee) = (Arc::new(local_key(3)), Arc::new(local_key(4)));
        let (consumer, provider) =
            (DeviceKey::from_secret(&[5; 32]), DeviceKey::from_secret(&[6; 32]));
        let domain = Domain { chain_id: 31_337, contract: Address::repeat_byte(0xcc) };
        let token = Address::repeat_byte(0x70);
        let terms = Terms {
            provider: provider.node_id(),
            service: Service::ExitTcp,
            counting: CountingRule::StreamPayload,
            price,
            credit,
            domain,
            token,
            payee: payee_wallet.address(),
            payee_authorizer: payee.address(),
            withdraw_delay_secs_min: 3_600,
            channel_min: Amount::ZERO,
            issued: EPOCH,
            expires: EPOCH.plus_ms(365 * DAY_MS),
        };
        let config = ChannelConfig {
            payer: payer_wallet.address(),
            payer_authorizer: payer.address(),
            payee: terms.payee,
            payee_authorizer: terms.payee_authorizer,
            token,
            withdraw_delay_secs: 86_400,
            salt: 1,
        };
        Self { consumer, provider, payer_wallet, payee_wallet, payer, payee, domain, terms, config }
    }

    pub(crate) fn consumer_delegation(&self) -> Signed<Delegation> {
        let delegation = Delegation {
            wallet: self.payer_wallet.address(),
            device: self.consumer.node_id(),
            authorizer: self.payer.address(),
            expiry_secs: EPOCH.plus_ms(365 * DAY_MS).as_secs(),
        };
        *Verified::sign(delegation, &self.domain, &self.payer_wallet).unwrap().signed()
    }

    pub(crate) fn provider_delegation(&self) -> Signed<Delegation> {
        let delegation = Delegation {
            wallet: self.payee_wallet.address(),
            device: self.provider.node_id(),
            authorizer: self.payee.address(),
            expiry_secs: EPOCH.plus_ms(365 * DAY_MS).as_secs(),
        };
        *Verified::sign(delegation, &self.domain, &self.payee_wallet).unwrap().signed()
    }

    pub(crate) fn offer(&self) -> Offer {
        let signature = self.provider.sign_bytes(&self.terms.signing_bytes());
        Offer { terms: self.terms, delegation: self.provider_delegation(), signature }
    }

    pub(crate) fn voucher(&self, amount: Amount) -> Signed<Voucher> {
        let voucher = Voucher { channel: self.config.id(&self.domain), amount };
        *Verified::sign(voucher, &self.domain, &*self.payer).unwrap().signed()
    }

    /// A payment for `reading` in a session that began at `base`.
    pub(crate) fn payment(&self, session: SessionId, base: Amount, reading: Reading) -> Payment {
        let owed = self.terms.price.owed(reading.checked_total().unwrap()).unwrap();
        let voucher = self.voucher(base.checked_add(owed).unwrap());
        Payment { session, reading, voucher }
    }

    pub(crate) fn receipt(&self, receipt: Receipt) -> Signed<Receipt> {
        *Verified::sign(receipt, &self.domain, &*self.payer).unwrap().signed()
    }

    pub(crate) fn countersign(&self, receipt: Signed<Receipt>) -> Countersigned {
        let payee_signature = self.payee.sign_digest(receipt.body.digest(&self.domain)).unwrap();
        Countersigned { receipt, payee_signature }
    }

    /// An acceptance that tells of nothing, for tests to make worse.
    pub(crate) fn acceptance(&self, session: SessionId) -> Acceptance {
        Acceptance {
            session,
            terms_hash: self.terms.hash(),
            channel: self.config,
            delegation: self.consumer_delegation(),
            reading: Reading::ZERO,
            up_max: ByteCount::ZERO,
            payment: None,
            receipt: None,
            pending: None,
        }
    }

    pub(crate) fn sign_acceptance(&self, acceptance: &Acceptance) -> DeviceSignature {
        self.consumer.sign_bytes(&acceptance.signing_bytes())
    }

    pub(crate) fn payee_setup(
        &self,
        acceptance: Acceptance,
        facts: ChannelFacts,
        memory: Memory,
    ) -> PayeeSetup {
        PayeeSetup {
            terms: self.terms,
            consumer: self.consumer.node_id(),
            signature: self.sign_acceptance(&acceptance),
            acceptance,
            facts,
            memory,
            pending_of: None,
            signer: self.payee.clone(),
        }
    }

    pub(crate) fn payer_setup(
        &self,
        session: SessionId,
        reserved: Amount,
        memory: Memory,
    ) -> PayerSetup<'_> {
        PayerSetup {
            terms: self.terms,
            session,
            config: self.config,
            reserved,
            low_water: Amount::ZERO,
            delegation: self.consumer_delegation(),
            memory,
            signer: self.payer.clone(),
            device: &self.consumer,
        }
    }
}
