//! A provider that was set back, and the bond that answers for what it signs.
//!
//! A restored node may have signed receipts that it does not know of. A peer that hides its newest
//! one gets a second one of its number signed (ADR 0017): all that the contract asks for.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use sparewire_core::{Address, Amount};
use sparewire_node::store::Store;
use sparewire_protocol::{Role, settlement::ChainError, stake::BondFacts};

use crate::{
    hint::Hint,
    home::{Home, known_token},
    output,
    side::Side,
};

/// Refuses to sell where money is bonded that answers for receipts which this node may have
/// forgotten. A chain that does not say is no reason to go on.
///
/// # Errors
/// A [`Hint`] where the authorizer is one of before a restore, and something is bonded for it; what
/// the chain fails of.
pub(crate) async fn check(home: &Home, side: &Side) -> Result<()> {
    let Some(stake) = home.bonds()? else { return Ok(()) };
    let identity = &side.node.identity;
    let authorizer = identity.authorizer.address();
    let wallets = [identity.wallet(), side.node.wallet.address()];
    let chain = &*side.chain;
    let ask = async |holder| match chain.bond(stake, holder).await {
        Ok(facts) => Ok(Some(facts)),
        // Where no other address is configured, there is no contract that could hold a bond.
        Err(ChainError::NoStake { .. }) if home.config.chain.stake.is_empty() => Ok(None),
        Err(error) => Err(error),
    };
    let Some((holder, facts)) = at_stake(&*side.store, authorizer, wallets, ask).await? else {
        return Ok(());
    };
    let token = known_token(chain, facts.token).await?;
    bail!(
        Hint::new(format!(
            "this node was restored from a backup, and {holder} has {} bonded for what its authorizer {authorizer} signs: a consumer that hides its newest receipt could get a second one of that number, and have the bond slashed",
            output::amount(facts.bonded, &token)
        ))
        .hint("`sparewire wallet device rotate` makes another authorizer, which has signed nothing yet; or take the bond back first: `sparewire stake leave`, and `stake unbond` 30 days later")
    )
}

/// Refuses to bond for an authorizer of before a restore.
///
/// # Errors
/// A [`Hint`] where it is one; where the store fails.
pub(crate) fn check_unbonded(store: &dyn Store, authorizer: Address) -> Result<()> {
    if !store.was_restored(authorizer)? {
        return Ok(());
    }
    bail!(
        Hint::new(format!(
            "this node was restored from a backup, and a bond would answer for all that its authorizer {authorizer} signs: a consumer that hides its newest receipt could get a second one of that number, and have the bond slashed"
        ))
        .hint("`sparewire wallet device rotate` makes another authorizer, which has signed nothing yet; bond then")
    )
}

/// The first wallet that answers with a bond for an authorizer of before a restore: one of
/// `wallets`, or one that it was paid to. What is leaving answers as well.
async fn at_stake(
    store: &dyn Store,
    authorizer: Address,
    wallets: [Address; 2],
    ask: impl AsyncFn(Address) -> Result<Option<BondFacts>, ChainError>,
) -> Result<Option<(Address, BondFacts)>> {
    if !store.was_restored(authorizer)? {
        return Ok(None);
    }
    let channels = store.channels(Role::Payee)?.into_iter().map(|channel| channel.config);
    let paid = channels.filter(|config| config.payee_authorizer == authorizer);
    let holders: BTreeSet<Address> = wallets.into_iter().chain(paid.map(|it| it.payee)).collect();
    for holder in holders {
        let facts = ask(holder).await.with_context(|| {
            format!("this node was restored from a backup, and whether {holder} has a bond that its receipts could lose is not known")
        })?;
        if let Some(facts) = facts.filter(|facts| facts.bonded > Amount::ZERO) {
            return Ok(Some((holder, facts)));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use sparewire_core::Domain;
    use sparewire_node::store::SqliteStore;
    use sparewire_protocol::ChannelConfig;

    use super::*;

    const OLD: Address = Address::repeat_byte(1);
    const NEW: Address = Address::repeat_byte(2);
    const OURS: [Address; 2] = [Address::repeat_byte(3), Address::repeat_byte(4)];
    const EARLIER: Address = Address::repeat_byte(5);

    /// A store that was restored, with a channel of the old authorizer to another wallet.
    fn restored() -> (tempfile::TempDir, SqliteStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("store.sqlite")).unwrap();
        let config = ChannelConfig {
            payer: OURS[0],
            payer_authorizer: OURS[0],
            payee: EARLIER,
            payee_authorizer: OLD,
            token: Address::ZERO,
            withdraw_delay_secs: 3600,
            salt: 1,
        };
        let domain = Domain { chain_id: 1, contract: Address::ZERO };
        store.keep_channel(Role::Payee, &domain, &config).unwrap();
        store.mark_restored(&[OLD]).unwrap();
        (directory, store)
    }

    fn bond(bonded: u128, leaving: u128) -> BondFacts {
        let amount = |units| Amount::new(units).unwrap();
        BondFacts {
            token: Address::ZERO,
            penalty: amount(10),
            bonded: amount(bonded),
            leaving: amount(leaving),
            due_secs: 0,
            locked: Amount::ZERO,
            covered: amount(bonded - leaving),
        }
    }

    #[tokio::test]
    async fn each_wallet_that_answers_for_the_authorizer_is_asked_for_its_bond() {
        let (_directory, store) = restored();
        for holder in [OURS[0], OURS[1], EARLIER] {
            // All of it is on its way out, and can be slashed until it is.
            let ask = async |asked| Ok(Some(bond(if asked == holder { 12 } else { 0 }, 0)));
            let found = at_stake(&store, OLD, OURS, ask).await.unwrap();
            assert_eq!(found, Some((holder, bond(12, 0))));
            let ask = async |asked| Ok((asked == holder).then(|| bond(12, 12)));
            let found = at_stake(&store, OLD, OURS, ask).await.unwrap();
            assert_eq!(found, Some((holder, bond(12, 12))));
        }
        let none = async |_| Ok(Some(bond(0, 0)));
        assert_eq!(at_stake(&store, OLD, OURS, none).await.unwrap(), None);
        assert!(check_unbonded(&store, OLD).is_err());
    }

    #[tokio::test]
    async fn a_chain_that_does_not_say_is_no_reason_to_go_on() {
        let (_directory, store) = restored();
        let silent = async |_| {
            Err(ChainError::Unreachable { endpoint: String::new(), reason: "silence".into() })
        };
        let error = at_stake(&store, OLD, OURS, silent).await.unwrap_err();
        assert!(format!("{error:#}").contains("is not known"), "{error:#}");
        assert!(crate::hint::advice(&error).is_some());
    }

    #[tokio::test]
    async fn another_authorizer_has_signed_nothing_and_nobody_is_asked() {
        let (_directory, store) = restored();
        let asked = Cell::new(0);
        let ask = async |_| {
            asked.set(asked.get() + 1);
            Ok(Some(bond(12, 0)))
        };
        assert_eq!(at_stake(&store, NEW, OURS, ask).await.unwrap(), None);
        assert_eq!(asked.get(), 0);
        check_unbonded(&store, NEW).unwrap();
    }
}
