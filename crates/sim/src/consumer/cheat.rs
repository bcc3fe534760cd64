//! What dishonest consumers do instead.

use sparewire_core::{Amount, B256, ByteCount, DeviceSigner, DeviceStatement, SessionId, Verified};
use sparewire_protocol::{Message, Payment, Reading, Voucher, settlement::Intent};

use super::{Consumer, Phase};
use crate::{cast::network, node::Surroundings, vice::ConsumerVice};

impl Consumer {
    /// Some more of the same, a few dozen times.
    pub(super) fn ask_again(&mut self) {
        if self.asked_again < 40 && !self.left {
            self.asked_again += 1;
            self.demand.push_back((10, self.chunk * 8));
        }
    }

    /// What a dishonest consumer says instead.
    pub(super) fn corrupt(&mut self, world: &mut Surroundings, message: Message) -> Vec<Message> {
        use ConsumerVice as Vice;
        let Some(vice) = self.vice else { return vec![message] };
        let signer = self.node.identity.authorizer.clone();
        let domain = network().0;
        let voucher = |channel, amount| {
            *Verified::sign(Voucher { channel, amount }, &domain, &*signer)
                .expect("its key signs")
                .signed()
        };
        match (vice, message) {
            (Vice::NeverPays, Message::Payment { .. }) => {
                world.coverage.met("did not pay");
                let end = Message::Close { reason: "settled".into() };
                self.is_closing().then_some(end).into_iter().collect()
            }
            (Vice::PaysLate, message @ Message::Payment { .. }) => {
                world.coverage.met("pays late");
                self.late.push((world.now_ms + 15_000, message));
                Vec::new()
            }
            (Vice::PaysLess, Message::Payment { mut payment, receipt }) => {
                world.coverage.met("pays less");
                let less = Amount::new(payment.voucher.body.amount.get() / 2).unwrap_or_default();
                payment.voucher = voucher(payment.voucher.body.channel, less);
                vec![Message::Payment { payment, receipt }]
            }
            (Vice::OverPromises, Message::Payment { mut payment, receipt }) => {
                let channel = payment.voucher.body.channel;
                let reserved = world.ledger.channel(channel).reserved;
                let more = Amount::new(reserved + 1).unwrap_or_default();
                payment.voucher = voucher(channel, more);
                world.coverage.met("over-promises");
                vec![Message::Payment { payment, receipt }]
            }
            (Vice::OverPromises, Message::Accept { mut acceptance, .. })
                if self.node.rng.bool() =>
            {
                let id = acceptance.channel.id(&domain);
                let more = Amount::new(world.ledger.channel(id).reserved + 1).unwrap_or_default();
                let session = SessionId(B256::repeat_byte(0xee));
                let (reading, voucher) = (Reading::ZERO, voucher(id, more));
                acceptance.payment = Some(Payment { session, reading, voucher });
                let signature = self.node.identity.device.sign_bytes(&acceptance.signing_bytes());
                world.coverage.met("over-promises as it accepts");
                vec![Message::Accept { acceptance, signature }]
            }
            (Vice::OverstatesReceipts, Message::Payment { payment, receipt: Some(receipt) }) => {
                let mut other = receipt.body;
                match self.node.rng.u8(0..3) {
                    0 => other.reading.down = ByteCount::new(other.reading.down.get() + 1_000),
                    1 => other.previous = B256::repeat_byte(9),
                    _ => other.amount = Amount::new(other.amount.get() + 1).unwrap_or_default(),
                }
                let other = *Verified::sign(other, &domain, &*signer).expect("signs").signed();
                world.coverage.met("a receipt that does not fit");
                vec![Message::Payment { payment, receipt: Some(other) }]
            }
            (Vice::NeverSettles, Message::Payment { .. }) if self.is_closing() => Vec::new(),
            (Vice::NeverSettles, Message::Close { .. }) if self.node.rng.bool() => Vec::new(),
            (Vice::EquivocatesInReceipts, Message::Payment { payment, receipt: Some(receipt) }) => {
                let mut other = receipt.body;
                other.time = other.time.plus_ms(1);
                let other = *Verified::sign(other, &domain, &*signer).expect("signs").signed();
                world.coverage.met("equivocates");
                vec![
                    Message::Payment { payment, receipt: Some(receipt) },
                    Message::Payment { payment, receipt: Some(other) },
                ]
            }
            (Vice::Understates, Message::Accept { mut acceptance, .. }) => {
                acceptance.reading.down =
                    acceptance.payment.map_or(ByteCount::ZERO, |payment| payment.reading.down);
                let signature = self.node.identity.device.sign_bytes(&acceptance.signing_bytes());
                world.coverage.met("understates");
                vec![Message::Accept { acceptance, signature }]
            }
            (Vice::WithdrawsWhileServed, message @ Message::Payment { .. }) => {
                if self.first_voucher.is_none() {
                    self.leave_chain(world);
                }
                self.remember(&message);
                vec![message]
            }
            (Vice::ClosesWithOldVoucher, message @ Message::Payment { .. }) => {
                let again = self.first_voucher.is_some();
                self.remember(&message);
                if again && self.asked_again == 0 {
                    self.asked_again = 1; // once
                    self.claim_old(world);
                    self.leave_chain(world);
                }
                vec![message]
            }
            (_, message) => vec![message],
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(&self.phase, Phase::Up(up) if up.closing_since_ms.is_some())
    }

    pub(super) fn remember(&mut self, message: &Message) {
        if let Message::Payment { payment, .. } = message
            && self.first_voucher.is_none()
        {
            self.first_voucher = Some(*payment);
        }
    }

    /// Has its first voucher claimed, long after it promised more.
    pub fn claim_old(&mut self, world: &mut Surroundings) {
        if let (Some(payment), Some(config)) = (self.first_voucher, self.channels.first()) {
            world.coverage.met("old voucher claimed by the payer");
            let claim = sparewire_protocol::Claim {
                config: *config,
                amount: payment.voucher.body.amount,
                signature: payment.voucher.signature,
            };
            self.node.purse.want(Intent::Claim { claims: vec![claim] });
        }
    }
}
