//! What dishonest parties do. Each vice is a way to do something else than the real machine says;
//! whoever has none is honest, and everything is promised to the honest only.

use serde::{Deserialize, Serialize};

/// A consumer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsumerVice {
    /// Takes, and sends no payment.
    NeverPays,
    /// Pays long after it is due.
    PaysLate,
    /// Signs for less than it owes.
    PaysLess,
    /// Signs for more than the channel holds.
    OverPromises,
    /// Says again what it said before.
    Replays,
    /// Signs two receipts of one number.
    EquivocatesInReceipts,
    /// Takes the credit and breaks the connection, again and again.
    BreaksOff,
    /// Says on coming back that less arrived than did.
    Understates,
    /// Starts to withdraw its money while it is served.
    WithdrawsWhileServed,
    /// Opens channels that hold next to nothing.
    OpensDust,
    /// Sends bytes that no machine would.
    Garbles,
    /// Has an old voucher claimed in the hope that the newest is then worth nothing, and leaves.
    ClosesWithOldVoucher,
    /// Signs receipts for more than it has paid for, or that do not follow the one before.
    OverstatesReceipts,
    /// Asks for the session's end and then says nothing more, and stays.
    NeverSettles,
    /// Gives its key to the provider, who signs vouchers with it.
    Colludes,
}

/// All of them.
pub const CONSUMER_VICES: [ConsumerVice; 15] = [
    ConsumerVice::NeverPays,
    ConsumerVice::PaysLate,
    ConsumerVice::PaysLess,
    ConsumerVice::OverPromises,
    ConsumerVice::Replays,
    ConsumerVice::EquivocatesInReceipts,
    ConsumerVice::BreaksOff,
    ConsumerVice::Understates,
    ConsumerVice::WithdrawsWhileServed,
    ConsumerVice::OpensDust,
    ConsumerVice::Garbles,
    ConsumerVice::ClosesWithOldVoucher,
    ConsumerVice::OverstatesReceipts,
    ConsumerVice::NeverSettles,
    ConsumerVice::Colludes,
];

/// A provider's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderVice {
    /// Stops serving once it has been paid, and says nothing.
    DropsSilently,
    /// Sends something else than what the origin said.
    ServesRubbish,
    /// Reports more up than it was sent.
    OverReports,
    /// Sends payload on streams that nobody opened.
    Floods,
    /// Takes receipts and signs none.
    WithholdsCountersignatures,
    /// Signs something else than the receipts that it was sent.
    EquivocatesInReceipts,
    /// Says on taking a session that more was carried than was.
    Overstates,
    /// Forgets the newest voucher when a session begins, and says that less is promised, or more.
    UnderstatesBase,
    /// Sends bytes that no machine would.
    Garbles,
    /// Claims the same and older vouchers again and again.
    ClaimsAgain,
    /// Sends more than the channel can pay for, past its own meter.
    OverServes,
    /// Answers nothing any more once it has been paid, and stays.
    FallsMute,
    /// Signs vouchers with a consumer's key: over that one's channels, and over others'.
    Colludes,
}

/// All of them.
pub const PROVIDER_VICES: [ProviderVice; 13] = [
    ProviderVice::DropsSilently,
    ProviderVice::ServesRubbish,
    ProviderVice::OverReports,
    ProviderVice::Floods,
    ProviderVice::WithholdsCountersignatures,
    ProviderVice::EquivocatesInReceipts,
    ProviderVice::Overstates,
    ProviderVice::UnderstatesBase,
    ProviderVice::Garbles,
    ProviderVice::ClaimsAgain,
    ProviderVice::OverServes,
    ProviderVice::FallsMute,
    ProviderVice::Colludes,
];

impl ConsumerVice {
    /// Its name in the coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::NeverPays => "vice: never pays",
            Self::PaysLate => "vice: pays late",
            Self::PaysLess => "vice: pays less",
            Self::OverPromises => "vice: over-promises",
            Self::Replays => "vice: replays",
            Self::EquivocatesInReceipts => "vice: payer equivocates",
            Self::BreaksOff => "vice: breaks off",
            Self::Understates => "vice: understates",
            Self::WithdrawsWhileServed => "vice: withdraws while served",
            Self::OpensDust => "vice: opens dust",
            Self::Garbles => "vice: consumer garbles",
            Self::ClosesWithOldVoucher => "vice: closes with an old voucher",
            Self::OverstatesReceipts => "vice: overstates receipts",
            Self::NeverSettles => "vice: never settles",
            Self::Colludes => "vice: payer colludes",
        }
    }
}

impl ProviderVice {
    /// Its name in the coverage.
    pub fn name(self) -> &'static str {
        match self {
            Self::DropsSilently => "vice: drops silently",
            Self::ServesRubbish => "vice: serves rubbish",
            Self::OverReports => "vice: over-reports",
            Self::Floods => "vice: floods",
            Self::WithholdsCountersignatures => "vice: withholds countersignatures",
            Self::EquivocatesInReceipts => "vice: payee equivocates",
            Self::Overstates => "vice: overstates",
            Self::UnderstatesBase => "vice: understates the base",
            Self::Garbles => "vice: provider garbles",
            Self::ClaimsAgain => "vice: claims again",
            Self::OverServes => "vice: over-serves",
            Self::FallsMute => "vice: falls mute",
            Self::Colludes => "vice: payee colludes",
        }
    }
}
