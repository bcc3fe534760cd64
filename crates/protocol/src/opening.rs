//! How a session begins at its payee: what both remember of the channel is put together.

use sparewire_core::{Amount, ByteCount, Price, Timestamp};

use crate::{
    channel::ChannelStatus,
    error::ProtocolError,
    message::Payment,
    meter::Reading,
    payee::PayeeSetup,
    payer::conflict,
    receipt::{Countersigned, ReceiptChain},
    session::{AGREED, Agreement, Record, Role, SUPERSEDED, WAS_SET_OFF, total},
    terms::Terms,
};

/// Where a session stands when it begins or goes on. Of what the payer and our store say, the higher
/// voucher and the longer chain of receipts win, and everything that was signed is verified again.
pub(crate) struct Opening {
    pub(crate) agreement: Agreement,
    /// What is to be durable before the payer is told.
    pub(crate) records: Vec<Record>,
    /// Where the counters go on from.
    pub(crate) reading: Reading,
    pub(crate) paid: Reading,
    pub(crate) payment: Option<Payment>,
    pub(crate) promised: Amount,
    pub(crate) receipts: ReceiptChain,
    /// What the newest receipt says of this session.
    pub(crate) receipted: Reading,
    pub(crate) countersigned: Option<Countersigned>,
    pub(crate) credit: ByteCount,
}

impl Opening {
    /// # Errors
    /// As [`crate::Payee::start`].
    pub(crate) fn of(setup: PayeeSetup, now: Timestamp) -> Result<Self, ProtocolError> {
        let PayeeSetup {
            terms,
            consumer,
            acceptance,
            signature,
            facts,
            memory,
            pending_of,
            signer,
        } = setup;
        let config = acceptance.channel;
        acceptance.verify(&signature, consumer, &terms, now)?;
        if facts.status != ChannelStatus::Open {
            return Err(ProtocolError::ChannelUnusable("it is closing or closed"));
        }
        if memory.agreed.is_some() {
            return Err(ProtocolError::ChannelUnusable(AGREED));
        }
        if facts.reserved < terms.channel_min {
            return Err(ProtocolError::ChannelUnusable("it holds less than the terms ask"));
        }

        // Both sides tell what they remember; the higher voucher and the longer chain win.
        let known = memory.session.filter(|known| known.agreement.session == acceptance.session);
        let resumed = known.is_some();
        let mut agreement = match &known {
            Some(known) if known.agreement.config != config || known.agreement.terms != terms => {
                return Err(ProtocolError::Inconsistent("resuming a session under other terms"));
            }
            Some(known) => known.agreement.clone(),
            None => Agreement {
                session: acceptance.session,
                config,
                terms,
                base: Amount::ZERO,
                history: memory.history,
            },
        };
        let channel = agreement.channel();
        let mut records = Vec::new();
        let (mut paid, own) = known.map_or((Reading::ZERO, Reading::ZERO), |s| (s.paid, s.counted));
        let mut payment = memory.payment;
        let mut promised = match &memory.payment {
            Some(ours) => agreement.verify_voucher(channel, ours)?.amount,
            None => Amount::ZERO,
        };
        let whole = |paid| agreement.owed(paid) == Some(promised);
        let superseded = memory.payment.is_some_and(|newest| {
            newest.session != acceptance.session && newest.voucher.body.amount > agreement.base
        });
        if resumed && superseded {
            return Err(ProtocolError::CannotResume(SUPERSEDED));
        }
        if resumed && !whole(paid) {
            return Err(ProtocolError::CannotResume(WAS_SET_OFF));
        }
        if let Some(mut theirs) = acceptance.payment {
            let voucher = agreement.verify_voucher(channel, &theirs)?;
            if voucher.amount > facts.reserved {
                return Err(ProtocolError::OverDeposit {
                    amount: voucher.amount,
                    reserved: facts.reserved,
                });
            }
            let newer = voucher.amount > promised
                || (voucher.amount == promised
                    && resumed
                    && theirs.session == acceptance.session
                    && theirs.reading.covers(paid));
            if newer {
                if resumed {
                    if theirs.session != acceptance.session {
                        return Err(ProtocolError::CannotResume(SUPERSEDED));
                    }
                    // Credit is granted only on durable payments, so nothing beyond it was carried
                    // (unless our store was set back: then a new session takes the voucher).
                    let ahead = theirs.reading.checked_total().unwrap_or(ByteCount::new(u64::MAX));
                    let credit = terms.credit.credit(agreement.paid(total(paid)));
                    if ahead.saturating_sub(total(paid)) > credit {
                        return Err(ProtocolError::CannotResume(
                            "more was paid than is remembered",
                        ));
                    }
                    agreement.verify_whole_payment(channel, &theirs)?;
                    if !theirs.reading.covers(paid) {
                        return Err(ProtocolError::Inconsistent(
                            "payment for less than is paid already",
                        ));
                    }
                    paid = theirs.reading;
                } else {
                    let added = voucher.amount.saturating_sub(promised);
                    theirs.reading = believable(&theirs, payment.as_ref(), &terms, added);
                }
                promised = voucher.amount;
                if payment != Some(theirs) {
                    payment = Some(theirs);
                    records.push(Record::Payment { channel, payment: theirs });
                }
            }
        }
        // R1: our store was set back to a backup, so what we remember is no more than the least that
        // was promised. The payer, who records before it tells, must know all of that and more, or
        // receipts that we countersigned since would get other ones beside them.
        if memory.resync.is_some() && memory.payment.is_some() {
            let told = acceptance.payment.map(|theirs| theirs.voucher.body.amount);
            let ours = memory.payment.map(|ours| ours.voucher.body.amount);
            if told < ours {
                return Err(ProtocolError::ChannelUnusable(
                    "this provider was restored from a backup, and the payer tells less than that",
                ));
            }
        }
        // More was claimed than we remember being promised: our store was set back, and vouchers up
        // to there would be worth nothing.
        if facts.claimed > promised {
            return Err(ProtocolError::ChannelUnusable(
                "more was claimed than is remembered of it",
            ));
        }
        if !resumed {
            let paid_before =
                acceptance.payment.is_some_and(|theirs| theirs.session == acceptance.session);
            if paid_before || acceptance.reading != Reading::ZERO {
                return Err(ProtocolError::CannotResume("nothing is remembered of it"));
            }
            agreement.base = promised;
            records.insert(
                0,
                Record::Session {
                    role: Role::Payee,
                    peer: consumer,
                    agreement: agreement.clone(),
                    started: now,
                },
            );
        }

        // Where the counters go on from: what the consumer says it received, and what we carried
        // up as far as it can have sent it. The rest is lost, within the allowance.
        let up_max = acceptance.up_max.max(acceptance.reading.up);
        let reading = Reading {
            up: own.up.clamp(acceptance.reading.up, up_max).max(paid.up),
            down: acceptance.reading.down.max(paid.down),
        };
        let served = own.checked_total().ok_or(ProtocolError::Inconsistent("reading too large"))?;
        let start =
            reading.checked_total().ok_or(ProtocolError::Inconsistent("reading too large"))?;
        let lost = served.saturating_sub(start);
        // Credit is granted only on durable payments, so nobody can have received more than this.
        let credit = terms.credit.credit(agreement.paid(total(paid)));
        if start.saturating_sub(total(paid)) > credit {
            return Err(ProtocolError::Inconsistent("more received than was ever granted"));
        }
        let paid_all = agreement.paid(total(paid));
        let lost_all = memory.lost.checked_add(lost).unwrap_or(ByteCount::new(u64::MAX));
        let allowed = terms.credit.loss_allowance(paid_all);
        if lost_all > allowed {
            return Err(ProtocolError::LossAllowanceUsed {
                lost: lost_all.get(),
                allowed: allowed.get(),
            });
        }
        if lost > ByteCount::ZERO {
            records.push(Record::Loss { session: agreement.session, bytes: lost });
        }
        if resumed {
            // From here on the session stands there; also, whoever cannot write does not serve.
            records.push(Record::Counted { session: agreement.session, reading });
        }

        let (mut receipts, mut receipted) = agreement.recall_receipts(memory.receipt.as_ref())?;
        let mut last = memory.receipt;
        if let Some(theirs) = acceptance.receipt {
            let (chain, theirs_receipted) = agreement.recall_receipts(Some(&theirs))?;
            if chain.sequence == receipts.sequence && chain.hash != receipts.hash {
                return Err(conflict(chain.sequence, receipts.hash, chain.hash));
            }
            if chain.sequence > receipts.sequence {
                (receipts, receipted, last) = (chain, theirs_receipted, Some(theirs));
                records.push(Record::Receipt {
                    receipt: theirs.receipt,
                    payee_signature: Some(theirs.payee_signature),
                });
            }
        }
        if let Some(pending) = acceptance.pending {
            if pending.body.channel != channel {
                return Err(ProtocolError::Inconsistent("receipt of another channel"));
            }
            let receipt = pending.verify(agreement.domain(), config.payer_authorizer)?;
            let chain = ReceiptChain::after(&receipt, agreement.domain());
            if chain.sequence == receipts.sequence && chain.hash != receipts.hash {
                return Err(conflict(chain.sequence, receipts.hash, chain.hash));
            }
            // Countersigned only where the money that it speaks of is promised already, and the
            // bytes that it speaks of are worth no more: exactly, where we know its session, whose
            // price may have been another.
            let worth = receipt.reading.checked_total().and_then(|total| terms.price.owed(total));
            let of =
                pending_of.filter(|(of, _)| of.session == receipt.session && of.config == config);
            let fits = if receipt.session == agreement.session {
                paid.covers(receipt.reading)
                    && agreement.owed(receipt.reading) == Some(receipt.amount)
            } else if let Some((of, of_paid)) = of {
                // What it sets off we had taken, or no more than our credit is missing.
                let credit = of.terms.credit.credit(of.paid(total(of_paid)));
                let most = total(of_paid).checked_add(credit);
                let set_off = of.set_off(receipt.reading, receipt.amount);
                set_off == Some(Amount::ZERO)
                    || (set_off.is_some() && receipt.reading.checked_total() <= most)
            } else {
                worth.is_some_and(|worth| worth <= receipt.amount)
            };
            if chain.sequence == receipts.sequence + 1
                && receipt.previous == receipts.hash
                && receipt.amount <= promised
                && fits
            {
                let payee_signature = signer.sign_digest(chain.hash)?;
                receipts = chain;
                if receipt.session == agreement.session {
                    receipted = receipt.reading;
                }
                last = Some(Countersigned { receipt: pending, payee_signature });
                records.push(Record::Receipt {
                    receipt: pending,
                    payee_signature: Some(payee_signature),
                });
            }
        }

        Ok(Self {
            agreement,
            records,
            reading,
            paid,
            payment,
            promised,
            receipts,
            receipted,
            countersigned: last,
            credit,
        })
    }
}

/// What we remember of the bytes that a payment of another session paid for. Its voucher is signed,
/// its reading is not, and paid bytes earn credit: they count only as far as the money that came
/// with them could have paid for them.
fn believable(theirs: &Payment, ours: Option<&Payment>, terms: &Terms, added: Amount) -> Reading {
    let known = ours
        .filter(|ours| ours.session == theirs.session)
        .map_or(Reading::ZERO, |ours| ours.reading);
    // Taken of the total as amounts are: the unit that `known` began may pay for more.
    let worth = terms.price.owed(total(known)).and_then(|worth| worth.checked_add(added));
    let most = match terms.price {
        Price::FREE => total(known),
        price => worth.map_or(total(known), |worth| price.affordable(worth)),
    };
    let covered = theirs.reading.covers(known)
        && theirs.reading.checked_total().is_some_and(|bytes| bytes <= most);
    if covered { theirs.reading } else { known }
}
