//! How many claims go into one transaction: as many as a transaction may use gas for and nodes pass
//! on, and fewer where an estimate says so.

use sparewire_protocol::{
    channel::{Claim, PACKED_ENTRY_LEN, PACKED_HEAD_LEN, pack_claims},
    settlement::{Chain, ChainError},
};

use alloy_primitives::U256;
use alloy_sol_types::SolCall;

use super::{EvmChain, NodeError, quote::GAS_MAX};
use crate::{contracts::Channels, journal::Call};

/// Gas of a packed claim beside its entries, at its dearest: the transaction itself, a payout to a
/// wallet that never had the token, and what that token does.
const BATCH_GAS: u64 = 150_000;
/// Gas of an entry. `contracts/snapshots/gas.json` has 11,469 with the batch's own gas shared by 100;
/// `sparewire-bench scale` measures what is left of it in large batches.
const ENTRY_GAS: u64 = 12_000;
/// Most bytes of a transaction that nodes pass on (geth's `txMaxSize`, 128 KiB), less room for its
/// other fields and the ABI's.
const DATA_BYTES_MAX: usize = 128 * 1_024 - 1_024;
/// Most claims of one transaction.
pub(super) const CLAIMS_MAX: usize = (DATA_BYTES_MAX - PACKED_HEAD_LEN) / PACKED_ENTRY_LEN;
/// Fewer than these fit any chain's transactions: their gas is not estimated beforehand.
const CLAIMS_SURE: usize = 100;

/// Most gas that an estimate may come to where blocks have this gas limit: it gets a quarter on top
/// when it is signed, which must not be more than a block holds either.
fn gas_max(block_gas_limit: u64) -> u64 {
    GAS_MAX.min(block_gas_limit / 5 * 4)
}

/// Most claims of a transaction whose estimate may come to so much gas.
fn claims_per_call(gas_max: u64) -> usize {
    let gas = gas_max.saturating_sub(BATCH_GAS);
    usize::try_from(gas / ENTRY_GAS).unwrap_or(usize::MAX).clamp(1, CLAIMS_MAX)
}

/// The calls that claim, with at most so many claims in each.
pub(super) fn claim_calls(
    contract: alloy_primitives::Address,
    claims: &[Claim],
    per_call: usize,
) -> Vec<Call> {
    let groups = pack_claims(claims);
    let parts = groups.iter().flat_map(|group| split_group(group, per_call));
    let call = |data: Vec<u8>| {
        let data = Channels::claimPackedAndSweepCall::new((data.into(),)).abi_encode();
        Call { target: Some(contract), data: data.into(), value: U256::ZERO }
    };
    parts.map(call).collect()
}

/// Splits one packed group into groups of so many entries, each with the head.
fn split_group(group: &[u8], per_call: usize) -> Vec<Vec<u8>> {
    let Some((head, entries)) = group.split_at_checked(PACKED_HEAD_LEN) else { return Vec::new() };
    let chunks = entries.chunks(per_call.max(1) * PACKED_ENTRY_LEN);
    chunks.map(|chunk| [head, chunk].concat()).collect()
}

impl EvmChain {
    /// The fewest calls that claim all of `claims` on this chain.
    pub(super) async fn fewest_claim_calls(
        &self,
        claims: &[Claim],
    ) -> Result<Vec<Call>, ChainError> {
        let contract = self.domain().contract;
        let mut per_call = CLAIMS_SURE;
        if claims.len() > CLAIMS_SURE {
            let limit = self.follower.node.gas_limit().await?;
            let gas_max = limit.map_or(GAS_MAX, gas_max);
            per_call = claims_per_call(gas_max);
            while per_call > CLAIMS_SURE && !self.fits(claims, per_call, gas_max).await? {
                per_call /= 2;
                tracing::info!(per_call, "the chain takes no more claims in one transaction");
            }
        }
        Ok(claim_calls(contract, claims, per_call))
    }

    /// Whether the largest of the calls is within what a transaction may use. Whatever else is wrong
    /// with it is told when it is sent.
    async fn fits(
        &self,
        claims: &[Claim],
        per_call: usize,
        gas_max: u64,
    ) -> Result<bool, ChainError> {
        let calls = claim_calls(self.domain().contract, claims, per_call);
        let Some(largest) = calls.iter().max_by_key(|call| call.data.len()) else {
            return Ok(true);
        };
        let node = &self.follower.node;
        match node.estimate_gas(&self.follower.request_of(largest)).await {
            Ok(gas) => Ok(gas <= gas_max),
            Err(error) if error.is_revert() => Ok(true),
            Err(NodeError::Refused { message, .. }) => Ok(message.contains("insufficient funds")),
            Err(error) => Err(node.blame(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_group_is_split_between_entries_and_keeps_its_head() {
        let entries = CLAIMS_MAX + 1;
        let group: Vec<u8> =
            (0..PACKED_HEAD_LEN + entries * PACKED_ENTRY_LEN).map(|at| (at % 251) as u8).collect();
        let parts = split_group(&group, CLAIMS_MAX);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].len(), PACKED_HEAD_LEN + PACKED_ENTRY_LEN);
        assert!(parts.iter().all(|part| part[..PACKED_HEAD_LEN] == group[..PACKED_HEAD_LEN]));
        assert_eq!(parts[1][PACKED_HEAD_LEN..], group[group.len() - PACKED_ENTRY_LEN..]);
        assert!(split_group(&[], 1).is_empty());
    }

    #[test]
    fn a_transaction_takes_as_many_claims_as_blocks_gas_and_size_allow() {
        // EIP-7825 and the size of transactions bound it on chains with large blocks.
        assert_eq!(CLAIMS_MAX, 1_039);
        for limit in [30_000_000, 60_000_000, u64::MAX] {
            assert_eq!(claims_per_call(gas_max(limit)), CLAIMS_MAX);
        }
        assert_eq!(claims_per_call(gas_max(8_000_000)), (6_400_000 - 150_000) / 12_000);
        assert_eq!(claims_per_call(gas_max(0)), 1);
    }
}
