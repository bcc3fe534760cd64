//! What a world says of itself where something is wrong.

use sparewire_protocol::{Message, StopReason};

use super::{
    end::{Buy, Machine},
    world::World,
};

impl World {
    /// Notes what happens, where `MARKET_TRACE` asks for it.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.traces {
            eprintln!("{:>8} {}", self.now, what());
        }
    }

    /// # Panics
    /// Always, with all that there is to say.
    pub(crate) fn stuck(&self, what: &str) -> ! {
        let mut words = format!("{what} at {} ms, {:?}", self.now, self.geometry);
        for (number, node) in self.nodes.iter().enumerate() {
            words += &format!(
                "\n{number}: {:?} rich {} up {} has {} of {} banned {:?} price {:?} ceiling {:?} credit {:?} {:?}",
                node.vice,
                node.rich,
                node.up,
                node.had.count(),
                node.had.pieces(),
                node.banned,
                node.price,
                node.download.price_ceiling(),
                node.credit,
                self.chain.purses[&number],
            );
        }
        for (key, end) in &self.ends {
            let buy = match &end.buy {
                Buy::Rest { until } => format!("rest {until}"),
                Buy::Asked { .. } => "asked".into(),
                Buy::Funding { .. } => "funding".into(),
                Buy::Accepting { .. } => "accepting".into(),
                Buy::Live => "live".into(),
                Buy::Over => "over".into(),
            };
            words += &format!(
                "\n{key:?} lost {} wanted {} buy {buy} slot {} allowed {} asked {} came {} unjudged {} winding {:?} | unchoked {} wants {} apps {} waiting {:?} requests {} account {:?}",
                end.lost,
                end.wanted,
                end.buy_slot,
                end.figures.allowed,
                end.asked,
                end.came,
                end.unjudged,
                end.winding.map(|w| (w.until, w.judging, w.done)),
                end.unchoked,
                end.they_want,
                end.apps.len(),
                end.waiting,
                end.requests.len(),
                end.account,
            );
            for (what, task) in [("pays", &end.buying), ("is paid", &end.selling)] {
                let Some(task) = task else { continue };
                let stopped: Option<StopReason> = match &task.machine {
                    Machine::Payer(payer) => payer.stopped(),
                    Machine::Payee(payee) => payee.stopped(),
                };
                words += &format!(
                    "\n    {what}: busy {} inbox {} meter {:?} limit {:?} {stopped:?} {:?}",
                    task.busy,
                    task.inbox.len(),
                    task.meter.reading(),
                    task.meter.limit(),
                    task.machine.statement(self.clock()),
                );
            }
        }
        panic!("{words}\n{what}");
    }
}

/// A message in few words.
pub(crate) fn brief(message: &Message) -> String {
    match message {
        Message::Accept { acceptance, .. } => {
            let paid = acceptance.payment.map(|p| (p.session, p.reading, p.voucher.body.amount));
            format!("Accept {} {:?} {paid:?}", acceptance.session, acceptance.reading)
        }
        Message::Accepted(accepted) => {
            let paid = accepted.payment.map(|p| (p.session, p.reading, p.voucher.body.amount));
            format!("Accepted {:?} base {} {paid:?}", accepted.reading, accepted.base)
        }
        Message::Payment { payment, receipt } => {
            let (reading, amount) = (payment.reading, payment.voucher.body.amount);
            format!("Payment {reading:?} {amount} {:?}", receipt.map(|r| r.body.sequence))
        }
        Message::Offer(_) => "Offer".into(),
        Message::Countersignature { sequence, .. } => format!("Countersignature {sequence}"),
        other => format!("{other:?}"),
    }
}
