//! What happens to a chain without anybody's wanting it, and how true its RPC endpoints are.

use serde::{Deserialize, Serialize};
use sparewire_core::{Amount, Timestamp};

/// How often something happens: so many times in a thousand.
pub type PerMille = u16;

/// How rough the chain is. May be changed while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Weather {
    /// When block 0 was made.
    pub genesis: Timestamp,
    /// Milliseconds between blocks.
    pub block_time_ms: u64,
    /// A block with so many blocks on top is final: no reorganisation reaches it.
    pub finality_depth: u64,
    /// What the base fee tends to, in wei per gas.
    pub base_fee_wei: u64,
    /// How far other people's demand swings about half a block; the base fee follows (EIP-1559).
    pub demand_swing: PerMille,
    /// Blocks at which a fee spike begins.
    pub spikes: PerMille,
    /// The most by which a spike multiplies the base fee.
    pub spike_factor_max: u64,
    /// The longest spike, in milliseconds.
    pub spike_max_ms: u64,
    /// Transactions that take their time to reach the block builders.
    pub delayed: PerMille,
    /// The longest such delay, in milliseconds.
    pub delay_max_ms: u64,
    /// Transactions that the pool forgets within ten block times, unless they are mined before.
    pub forgotten: PerMille,
    /// Blocks whose builder orders transactions at will instead of by fee.
    pub reordered: PerMille,
    /// Blocks whose builder takes none of our transactions.
    pub empty: PerMille,
    /// Blocks at which the chain halts.
    pub halts: PerMille,
    /// The longest halt, in milliseconds.
    pub halt_max_ms: u64,
    /// Blocks at which a reorganisation happens.
    pub reorgs: PerMille,
    /// The most blocks that one takes back (always fewer than would touch final ones).
    pub reorg_depth_max: u64,
    /// Transactions of taken back blocks that do not return to the pool.
    pub lost_in_reorg: PerMille,
    /// The RPC endpoints.
    pub endpoints: Vec<Endpoint>,
}

impl Default for Weather {
    fn default() -> Self {
        Self::calm()
    }
}

impl Weather {
    /// Nothing goes wrong: 12 s blocks, final 8 blocks deep, 1 gwei, one honest endpoint.
    pub fn calm() -> Self {
        Self {
            genesis: Timestamp::from_ms(1_800_000_000_000),
            block_time_ms: 12_000,
            finality_depth: 8,
            base_fee_wei: 1_000_000_000,
            demand_swing: 0,
            spikes: 0,
            spike_factor_max: 1,
            spike_max_ms: 0,
            delayed: 0,
            delay_max_ms: 0,
            forgotten: 0,
            reordered: 0,
            empty: 0,
            halts: 0,
            halt_max_ms: 0,
            reorgs: 0,
            reorg_depth_max: 0,
            lost_in_reorg: 0,
            endpoints: vec![Endpoint::default()],
        }
    }

    /// All of it at once; endpoint 0 is honest but not always there, 1 is stale, 2 lies, 3 is slow.
    pub fn storm() -> Self {
        let flaky = Endpoint {
            outages: 20,
            outage_max_ms: 120_000,
            answers_lost: 30,
            ..Endpoint::default()
        };
        let lies = vec![
            Lie::MoreReserved(Amount::new(1 << 40).unwrap_or(Amount::MAX)),
            Lie::NeverClosing,
            Lie::NoClaims,
        ];
        Self {
            demand_swing: 400,
            spikes: 20,
            spike_factor_max: 50,
            spike_max_ms: 600_000,
            delayed: 200,
            delay_max_ms: 60_000,
            forgotten: 50,
            reordered: 200,
            empty: 100,
            halts: 10,
            halt_max_ms: 300_000,
            reorgs: 50,
            reorg_depth_max: 7,
            lost_in_reorg: 100,
            endpoints: vec![
                flaky,
                Endpoint::lagging(5),
                Endpoint::lying(lies),
                Endpoint { requests_per_sec: Some(4), swallows: 50, ..Endpoint::default() },
            ],
            ..Self::calm()
        }
    }
}

/// How an RPC endpoint behaves. The default one is honest and always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// How many blocks it is behind.
    pub lag: u64,
    /// What it says that is not so.
    pub lies: Vec<Lie>,
    /// The requests that it answers in one second; `None` for as many as there are.
    pub requests_per_sec: Option<u32>,
    /// Blocks at which it goes down.
    pub outages: PerMille,
    /// The longest time that it is down, in milliseconds.
    pub outage_max_ms: u64,
    /// Submissions that it takes and passes on, but whose answer is lost.
    pub answers_lost: PerMille,
    /// Submissions that it takes and never passes on.
    pub swallows: PerMille,
}

impl Endpoint {
    /// A stale one, so many blocks behind.
    pub fn lagging(blocks: u64) -> Self {
        Self { lag: blocks, ..Self::default() }
    }

    /// One that tells these lies.
    pub fn lying(lies: Vec<Lie>) -> Self {
        Self { lies, ..Self::default() }
    }
}

/// Something that an endpoint says and that is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lie {
    /// There is so much more in every channel.
    MoreReserved(Amount),
    /// No channel is closing or closed, and no such event happened.
    NeverClosing,
    /// Nothing was ever claimed, and no such event happened.
    NoClaims,
    /// There is so much more in every deposit.
    MoreDeposit(Amount),
    /// No transaction was ever mined.
    NoReceipts,
    /// No transaction ever failed.
    NoFailures,
    /// The newest block is final.
    HeadIsFinal,
    /// There are so many more blocks, and so many more of them final.
    Ahead(u64),
    /// There are no channels.
    NoChannels,
    /// Nobody has ever sent a transaction.
    NoNonces,
}
