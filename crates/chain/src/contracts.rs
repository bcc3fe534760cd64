//! The contracts' bindings and bytecode, made from their build artifacts, and what their errors
//! mean in words.

use alloy_primitives::Bytes;
use alloy_sol_types::{Panic, Revert, SolError, SolInterface, sol};

#[allow(missing_docs, clippy::too_many_arguments)]
mod bindings {
    use super::sol;
    sol!(
        #[derive(Debug)]
        Channels,
        "../../contracts/artifacts/Channels.json"
    );
    sol!(
        #[derive(Debug)]
        TestToken,
        "../../contracts/artifacts/TestToken.json"
    );
    sol!(
        #[derive(Debug)]
        Towers,
        "../../contracts/artifacts/Towers.json"
    );
}

pub use bindings::{Channels, TestToken, Towers};

/// In a module of its own, for the contracts name some types alike.
#[allow(missing_docs, clippy::too_many_arguments)]
mod keys {
    use super::sol;
    sol!(
        #[derive(Debug)]
        Keys,
        "../../contracts/artifacts/Keys.json"
    );
}

#[allow(missing_docs, clippy::too_many_arguments)]
mod stake {
    use super::sol;
    sol!(
        #[derive(Debug)]
        Stake,
        "../../contracts/artifacts/Stake.json"
    );
}

pub use keys::{Digests::Delegation as KeysDelegation, Keys};
pub use stake::{
    Digests::{Delegation as StakeDelegation, Receipt as StakeReceipt},
    Stake,
};

/// `Error(string)` and `Panic(uint256)` in words, as nodes append them to `execution reverted`.
pub(crate) fn plain_reason(data: &[u8]) -> Option<String> {
    if let Ok(Revert { reason }) = Revert::abi_decode(data) {
        return Some(printable(&reason));
    }
    let panic = Panic::abi_decode(data).ok()?;
    Some(panic.kind().map_or_else(|| format!("panic {:#x}", panic.code), |kind| kind.to_string()))
}

/// Any revert data in words: the errors of the contracts that are called here, the token's, plain
/// reasons, and bytes where nothing is known about them.
pub fn reason_in_words(data: &Bytes) -> String {
    let nothing = || "no reason given".to_owned();
    if data.is_empty() {
        return nothing();
    }
    plain_reason(data)
        .map(|words| if words.is_empty() { nothing() } else { words })
        .or_else(|| Channels::ChannelsErrors::abi_decode(data).ok().map(channels_words))
        .or_else(|| Towers::TowersErrors::abi_decode(data).ok().map(towers_words))
        .or_else(|| TestToken::TestTokenErrors::abi_decode(data).ok().and_then(token_words))
        .or_else(|| Keys::KeysErrors::abi_decode(data).ok().map(keys_words))
        .or_else(|| Stake::StakeErrors::abi_decode(data).ok().map(stake_words))
        .unwrap_or_else(|| {
            let shown = &data[..data.len().min(68)];
            format!("unknown error {}", Bytes::copy_from_slice(shown))
        })
}

fn channels_words(error: Channels::ChannelsErrors) -> String {
    use Channels::ChannelsErrors as E;
    match error {
        E::AmountAboveReserved(e) => {
            format!(
                "{} is more than the {} that channel {} holds",
                e.amount, e.reserved, e.channelId
            )
        }
        E::AmountTooLarge(e) => format!("amount {} is above 2^104 - 1", e.amount),
        E::AmountZero(_) => "the amount is zero".to_owned(),
        E::ChannelClosed(e) => format!("channel {} is closed", e.channelId),
        E::ChannelExists(e) => format!("channel {} exists already", e.channelId),
        E::ChannelNotClosing(e) => format!("nobody has started to close channel {}", e.channelId),
        E::ChannelNotOpen(e) => format!("channel {} is not open", e.channelId),
        E::ChannelUnknown(e) => format!("channel {} was never opened", e.channelId),
        E::CloseSignatureInvalid(e) => {
            format!("the payee did not sign the close of channel {}", e.channelId)
        }
        E::CloseTooEarly(e) => {
            format!("channel {} cannot be closed before {} (Unix time)", e.channelId, e.closeAt)
        }
        E::DepositTooSmall(e) => format!(
            "the deposit of {} holds {} of token {}, but {} is needed",
            e.payer, e.available, e.token, e.needed
        ),
        E::NothingReceived(e) => format!("token {} moved nothing", e.token),
        E::PackedLengthInvalid(e) => format!("packed claims of {} bytes are malformed", e.length),
        E::RecipientInvalid(e) => format!("{} cannot receive", e.recipient),
        E::SafeERC20FailedOperation(e) => format!("token {} refused to move", e.token),
        E::SenderNotPayer(e) => format!("only the payer {} may do this, not {}", e.payer, e.sender),
        E::TokenInvalid(e) => format!("{} is no token", e.token),
        E::VoucherSignatureInvalid(e) => {
            format!("the voucher for channel {} has a wrong signature", e.channelId)
        }
        E::WithdrawDelayInvalid(e) => {
            format!("a withdraw delay of {} seconds is not allowed", e.withdrawDelay)
        }
        // What is left are mistakes of this program, not of its user: the name says enough.
        other => named(&other),
    }
}

fn towers_words(error: Towers::TowersErrors) -> String {
    use Towers::TowersErrors as E;
    match error {
        E::AlreadyClaimed(e) => {
            format!("{} of channel {} is claimed already", e.claimed, e.channelId)
        }
        E::AppointmentExpired(e) => format!("the appointment expired at {} (Unix time)", e.expiry),
        E::AppointmentSignatureInvalid(e) => {
            format!("the payee's side did not sign the appointment of channel {}", e.channelId)
        }
        E::NothingToCollect(e) => format!("no reward waits for channel {}", e.channelId),
        E::RewardUncovered(e) => {
            format!("the reward is {}, but only {} are put aside", e.reward, e.available)
        }
        E::VoucherTooSmall(e) => {
            format!("the voucher is over {}, the appointment over {}", e.amount, e.appointed)
        }
        E::WithdrawalTooEarly(e) if e.due.is_zero() => {
            "no withdrawal of reward money is announced".to_owned()
        }
        E::WithdrawalTooEarly(e) => {
            format!("reward money cannot be withdrawn before {} (Unix time)", e.due)
        }
        other => named(&other),
    }
}

fn token_words(error: TestToken::TestTokenErrors) -> Option<String> {
    use TestToken::TestTokenErrors as E;
    Some(match error {
        E::ERC20InsufficientAllowance(e) => format!(
            "the token allowance of {} is {}, but {} is needed",
            e.spender, e.allowance, e.needed
        ),
        E::ERC20InsufficientBalance(e) => {
            format!("{} has {} of the token, but {} is needed", e.sender, e.balance, e.needed)
        }
        E::ERC20InvalidReceiver(e) => format!("the token cannot be sent to {}", e.receiver),
        other => named(&other),
    })
}

fn keys_words(error: Keys::KeysErrors) -> String {
    use Keys::KeysErrors as E;
    match error {
        E::AuthorizerIsRevoked(e) => {
            format!("authorizer {} was revoked for good by {}", e.authorizer, e.wallet)
        }
        E::DeadlinePassed(e) => format!("this was to be sent by {} (Unix time)", e.deadline),
        E::DelegationExpired(e) => format!("the delegation expired at {} (Unix time)", e.expiry),
        E::DeviceIsRevoked(e) => {
            format!("device {} was revoked for good by {}", e.device, e.wallet)
        }
        E::SenderNotWallet(e) => {
            format!("only the wallet {} may do this, not {}", e.wallet, e.sender)
        }
        E::WalletSignatureInvalid(e) => format!("the wallet {} did not sign this", e.wallet),
        other => named(&other),
    }
}

fn stake_words(error: Stake::StakeErrors) -> String {
    use Stake::StakeErrors as E;
    match error {
        E::AuthorizerNoLongerAnswers(e) => format!(
            "{} answered for authorizer {} until {} (Unix time) only",
            e.wallet, e.authorizer, e.until
        ),
        E::BondLocked(e) => format!("disputes hold all that is bonded, {}", e.locked),
        E::BondTooLarge(e) => format!("a bond of {} is above 2^128 - 1", e.amount),
        E::ChannelOfAnother(e) => {
            format!("channel {} does not pay this wallet under this authorizer", e.channelId)
        }
        E::CommitmentExists(_) => "this report was committed to before".to_owned(),
        E::CommitmentNotReady(e) if e.ready.is_zero() => {
            "nobody committed to this report before".to_owned()
        }
        E::CommitmentNotReady(e) => {
            format!("the evidence cannot be shown before {} (Unix time)", e.ready)
        }
        E::DelegationInvalid(e) => {
            format!("{} never said that authorizer {} acts for it", e.wallet, e.authorizer)
        }
        E::EvidenceSignatureInvalid(_) => "the authorizer did not sign the evidence".to_owned(),
        E::EvidenceUsed(_) => "this was reported before".to_owned(),
        E::NothingBonded(e) => format!("{} has nothing bonded", e.provider),
        E::ReceiptsDoNotContradict(_) => "the receipts do not contradict each other".to_owned(),
        E::UnbondingTooEarly(e) if e.due.is_zero() => {
            "nothing of the bond is announced to leave".to_owned()
        }
        E::UnbondingTooEarly(e) => {
            format!("the bond cannot be taken back before {} (Unix time)", e.due)
        }
        other => named(&other),
    }
}

/// The variant's name out of its debug form, such as `ReentrancyGuardReentrantCall`.
fn named(error: &impl std::fmt::Debug) -> String {
    let debug = format!("{error:?}");
    debug.split('(').next().unwrap_or_default().to_owned()
}

/// Reasons come from contracts that anybody may have written.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, B256, U256, Uint, keccak256};
    use sparewire_core::TypedData;

    #[test]
    fn errors_are_told_in_words() {
        let error = Channels::DepositTooSmall {
            payer: Address::repeat_byte(1),
            token: Address::repeat_byte(2),
            available: U256::from(3),
            needed: U256::from(4),
        };
        let words = reason_in_words(&error.abi_encode().into());
        assert!(words.contains("holds 3") && words.contains("4 is needed"), "{words}");
        let error = Towers::RewardUncovered { available: U256::from(3), reward: U256::from(4) };
        let words = reason_in_words(&error.abi_encode().into());
        assert_eq!(words, "the reward is 4, but only 3 are put aside");
        let words = reason_in_words(&Revert::from("tell\u{1b}me").abi_encode().into());
        assert_eq!(words, "tellme");
        let overflow = Panic { code: U256::from(0x11) };
        assert!(reason_in_words(&overflow.abi_encode().into()).contains("overflow"));
        assert_eq!(reason_in_words(&Bytes::new()), "no reason given");
        assert_eq!(reason_in_words(&Bytes::from_static(&[1, 2])), "unknown error 0x0102");
    }

    #[test]
    fn errors_of_every_contract_are_told_by_name_at_least() {
        let words = |data: Vec<u8>| reason_in_words(&data.into());
        let late = Towers::AlreadyClaimed { channelId: B256::repeat_byte(1), claimed: 7 };
        assert!(words(late.abi_encode()).starts_with("7 of channel 0x01"));
        let none = Towers::WithdrawalTooEarly { due: Uint::ZERO };
        assert_eq!(words(none.abi_encode()), "no withdrawal of reward money is announced");
        let revoked =
            Keys::DeviceIsRevoked { wallet: Address::repeat_byte(1), device: B256::repeat_byte(2) };
        assert!(words(revoked.abi_encode()).contains("revoked for good by 0x01"));
        assert_eq!(words(Keys::InvalidShortString {}.abi_encode()), "InvalidShortString");
        let none = Stake::NothingBonded { provider: Address::repeat_byte(3) };
        assert!(words(none.abi_encode()).ends_with("has nothing bonded"));
        let none = Stake::UnbondingTooEarly { due: Uint::ZERO };
        assert_eq!(words(none.abi_encode()), "nothing of the bond is announced to leave");
        assert_eq!(words(Stake::BlockIsTrue {}.abi_encode()), "BlockIsTrue");
    }

    #[test]
    fn signed_messages_have_the_types_that_the_contracts_hash() {
        // `keccak256` of the EIP-712 type is a constant in the contract's code.
        let types = [
            (
                Towers::BYTECODE.as_ref(),
                "Appointment(bytes32 channelId,uint128 amount,address payee,address token,\
                 uint128 reward,uint64 expiry)",
            ),
            (Keys::BYTECODE.as_ref(), sparewire_protocol::Revocation::TYPE),
            (
                Keys::BYTECODE.as_ref(),
                "CapChange(address wallet,address authorizer,address token,uint104 cap,\
                 uint256 nonce,uint256 deadline)",
            ),
            (
                Stake::BYTECODE.as_ref(),
                "Block(bytes32 root,uint64 length,uint64 index,bytes32 leaf)",
            ),
            (Keys::BYTECODE.as_ref(), sparewire_protocol::Delegation::TYPE),
            (Stake::BYTECODE.as_ref(), sparewire_protocol::Receipt::TYPE),
        ];
        for (code, message) in types {
            let hash = keccak256(message);
            assert!(code.windows(32).any(|window| window == hash.as_slice()), "{message}");
        }
    }

    #[test]
    fn a_reason_without_words_is_told_as_none() {
        for reason in ["", "\u{7}\n"] {
            let words = reason_in_words(&Revert::from(reason).abi_encode().into());
            assert_eq!(words, "no reason given");
        }
    }
}
