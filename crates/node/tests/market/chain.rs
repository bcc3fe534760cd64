//! A chain in memory, with the contract's rules and with faults to switch on.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use sparewire_core::{Address, Amount, B256, ChannelId, Domain, Signed, Timestamp};
use sparewire_protocol::{
    ChannelConfig, ChannelFacts, ChannelStatus, Claim, Delegation, Voucher,
    channel::CooperativeClose,
    settlement::{
        Chain, ChainError, Funds, Head, Intent, Outcome, Quote, Standing, StartedClose, TokenInfo,
        TransactionSummary,
    },
};
use tokio::sync::watch;

pub const TOKEN: Address = Address::repeat_byte(0x70);
pub const REGISTRY: Address = Address::repeat_byte(0xcc);

pub fn domain() -> Domain {
    Domain { chain_id: 31_337, contract: Address::repeat_byte(0xc0) }
}

pub fn amount(units: u128) -> Amount {
    Amount::new(units).unwrap()
}

#[derive(Default)]
struct State {
    channels: HashMap<ChannelId, ChannelFacts>,
    wallets: HashMap<Address, u128>,
    deposits: HashMap<Address, u128>,
    revoked: HashSet<Address>,
    caps: HashMap<Address, Amount>,
    performed: Vec<(Address, Intent)>,
}

/// What all wallets share.
#[derive(Default)]
pub struct FakeChain {
    state: Mutex<State>,
}

impl FakeChain {
    pub fn mint(&self, wallet: Address, units: u128) {
        *self.state.lock().unwrap().wallets.entry(wallet).or_default() += units;
    }

    pub fn wallet(&self, wallet: Address) -> u128 {
        self.state.lock().unwrap().wallets.get(&wallet).copied().unwrap_or_default()
    }

    pub fn deposit(&self, wallet: Address) -> u128 {
        self.state.lock().unwrap().deposits.get(&wallet).copied().unwrap_or_default()
    }

    pub fn set_status(&self, channel: ChannelId, status: ChannelStatus) {
        self.state.lock().unwrap().channels.get_mut(&channel).unwrap().status = status;
    }

    pub fn set_claimed(&self, channel: ChannelId, claimed: Amount) {
        self.state.lock().unwrap().channels.get_mut(&channel).unwrap().claimed = claimed;
    }

    pub fn facts(&self, channel: ChannelId) -> ChannelFacts {
        self.state.lock().unwrap().channels[&channel]
    }

    /// What `wallet` asked for so far.
    pub fn performed(&self, wallet: Address) -> Vec<Intent> {
        let state = self.state.lock().unwrap();
        state.performed.iter().filter(|(by, _)| *by == wallet).map(|(_, i)| i.clone()).collect()
    }

    /// Revokes an authorizer in the registry, whoever's it is.
    pub fn revoke(&self, authorizer: Address) {
        self.state.lock().unwrap().revoked.insert(authorizer);
    }

    /// Caps what channels of an authorizer are to hold, whoever's it is.
    pub fn cap(&self, authorizer: Address, most: Amount) {
        self.state.lock().unwrap().caps.insert(authorizer, most);
    }

    /// A channel out of thin air.
    pub fn open(&self, config: &ChannelConfig, units: u128) {
        let facts = ChannelFacts {
            reserved: amount(units),
            claimed: Amount::ZERO,
            status: ChannelStatus::Open,
        };
        self.state.lock().unwrap().channels.insert(config.id(&domain()), facts);
    }
}

/// The chain as one wallet sees it.
pub struct Seat {
    chain: Arc<FakeChain>,
    wallet: Address,
    pub unreachable: AtomicBool,
    pub slow: Mutex<Duration>,
    /// How long it takes until what is sent stands anywhere.
    pub slow_blocks: Mutex<Duration>,
    /// Channels about which it answers nonsense.
    pub muddled: Mutex<HashSet<ChannelId>>,
    /// What a transaction costs, and what each claim in it adds, in wei.
    pub fee_wei: Mutex<(u128, u128)>,
    /// So many more intents are carried out, and nobody hears of it.
    pub unheard: AtomicUsize,
    /// The time of the newest block, in seconds.
    pub block_secs: AtomicU64,
    /// Transactions take effect, and are not final until this is turned off.
    pub never_final: watch::Sender<bool>,
    /// Channels of which final state does not show yet what was claimed: it shows nothing claimed.
    pub unshown: Mutex<HashSet<ChannelId>>,
    /// How often it was asked about each channel.
    pub asked: Mutex<HashMap<ChannelId, usize>>,
    /// How many such questions are under way, and were at most.
    asking: AtomicUsize,
    pub asking_peak: AtomicUsize,
    /// How often it was asked about keys.
    pub asked_of_keys: AtomicUsize,
    /// What logs tell of closes, if they are followed, and whether they can be read.
    pub closes: Mutex<Option<Result<Vec<StartedClose>, ChainError>>>,
    /// When its journal says that something was last claimed.
    pub last_claim: Mutex<Option<Timestamp>>,
}

impl Seat {
    pub fn new(chain: &Arc<FakeChain>, wallet: Address) -> Arc<Self> {
        Arc::new(Self {
            chain: Arc::clone(chain),
            wallet,
            unreachable: false.into(),
            slow: Mutex::default(),
            slow_blocks: Mutex::default(),
            muddled: Mutex::default(),
            fee_wei: Mutex::new((1, 0)),
            unheard: 0.into(),
            block_secs: 1.into(),
            never_final: watch::Sender::new(false),
            unshown: Mutex::default(),
            asked: Mutex::default(),
            asking: 0.into(),
            asking_peak: 0.into(),
            asked_of_keys: 0.into(),
            closes: Mutex::default(),
            last_claim: Mutex::default(),
        })
    }

    async fn reach(&self) -> Result<(), ChainError> {
        let slow = *self.slow.lock().unwrap();
        tokio::time::sleep(slow).await;
        if self.unreachable.load(SeqCst) {
            let (endpoint, reason) = ("node-of-the-provider".to_owned(), "switched off".to_owned());
            return Err(ChainError::Unreachable { endpoint, reason });
        }
        Ok(())
    }
}

fn take(from: &mut u128, units: Amount, what: &'static str) -> Result<(), ChainError> {
    let reverted = || ChainError::Reverted { what, reason: "balance".to_owned() };
    *from = from.checked_sub(units.get()).ok_or_else(reverted)?;
    Ok(())
}

#[async_trait]
impl Chain for Seat {
    fn domain(&self) -> Domain {
        domain()
    }

    fn wallet(&self) -> Address {
        self.wallet
    }

    async fn head(&self) -> Result<Head, ChainError> {
        self.reach().await?;
        let time_secs = self.block_secs.load(SeqCst);
        Ok(Head { number: 1, time_secs, final_number: 1 })
    }

    async fn channel(&self, id: ChannelId) -> Result<Option<ChannelFacts>, ChainError> {
        *self.asked.lock().unwrap().entry(id).or_default() += 1;
        self.asking_peak.fetch_max(self.asking.fetch_add(1, SeqCst) + 1, SeqCst);
        let reached = self.reach().await;
        self.asking.fetch_sub(1, SeqCst);
        reached?;
        if self.muddled.lock().unwrap().contains(&id) {
            let (endpoint, reason) = ("node-of-the-provider".to_owned(), "muddled".to_owned());
            return Err(ChainError::Nonsense { endpoint, reason });
        }
        let mut facts = self.chain.state.lock().unwrap().channels.get(&id).copied();
        if self.unshown.lock().unwrap().contains(&id) {
            facts.iter_mut().for_each(|facts| facts.claimed = Amount::ZERO);
        }
        Ok(facts)
    }

    async fn closes_started(
        &self,
        _payee: Address,
    ) -> Result<Option<Vec<StartedClose>>, ChainError> {
        self.closes.lock().unwrap().clone().transpose()
    }

    async fn funds(&self, owner: Address, _token: Address) -> Result<Funds, ChainError> {
        self.reach().await?;
        let state = self.chain.state.lock().unwrap();
        Ok(Funds {
            native_wei: 1,
            wallet: state.wallets.get(&owner).copied().unwrap_or_default(),
            deposit: amount(state.deposits.get(&owner).copied().unwrap_or_default()),
            claimable: Amount::ZERO,
        })
    }

    async fn token(&self, address: Address) -> Result<TokenInfo, ChainError> {
        Ok(TokenInfo { address, symbol: "T".to_owned(), decimals: 0 })
    }

    async fn standing(
        &self,
        keys: Address,
        delegation: &Delegation,
    ) -> Result<Standing, ChainError> {
        self.asked_of_keys.fetch_add(1, SeqCst);
        self.reach().await?;
        assert_eq!(keys, REGISTRY);
        let revoked = self.chain.state.lock().unwrap().revoked.contains(&delegation.authorizer);
        Ok(if revoked { Standing::Revoked } else { Standing::Unknown })
    }

    async fn last_claim(&self) -> Result<Option<Timestamp>, ChainError> {
        Ok(*self.last_claim.lock().unwrap())
    }

    async fn cap(
        &self,
        keys: Address,
        _: Address,
        authorizer: Address,
        token: Address,
    ) -> Result<Option<Amount>, ChainError> {
        self.reach().await?;
        assert_eq!((keys, token), (REGISTRY, TOKEN));
        Ok(self.chain.state.lock().unwrap().caps.get(&authorizer).copied())
    }

    async fn quote(&self, intent: &Intent) -> Result<Quote, ChainError> {
        self.reach().await?;
        let (transaction, claim) = *self.fee_wei.lock().unwrap();
        let claims: &[_] = if let Intent::Claim { claims } = intent { claims } else { &[] };
        claims.iter().try_for_each(check_signature)?;
        let fee_wei = transaction + claim * claims.len() as u128;
        Ok(Quote { transactions: 1, gas: 1, fee_wei, fee_wei_max: fee_wei * 2, data_fee_wei: 0 })
    }

    async fn perform(&self, intent: &Intent) -> Result<Outcome, ChainError> {
        self.reach().await?;
        let slow = *self.slow_blocks.lock().unwrap();
        tokio::time::sleep(slow).await;
        let outcome = self.apply(intent)?;
        let one_less = |left: usize| left.checked_sub(1);
        if self.unheard.fetch_update(SeqCst, SeqCst, one_less).is_ok() {
            let (endpoint, reason) = ("node-of-the-provider".to_owned(), "silent".to_owned());
            return Err(ChainError::Unreachable { endpoint, reason });
        }
        self.never_final.subscribe().wait_for(|never| !never).await.unwrap();
        Ok(outcome)
    }

    async fn resume(&self) -> Result<usize, ChainError> {
        Ok(0)
    }
}

fn check_signature(claim: &Claim) -> Result<(), ChainError> {
    let body = Voucher { channel: claim.config.id(&domain()), amount: claim.amount };
    Signed { body, signature: claim.signature }
        .verify(&domain(), claim.config.payer_authorizer)
        .map(drop)
        .map_err(|_| ChainError::Reverted { what: "claim", reason: "signature".to_owned() })
}

impl Seat {
    fn apply(&self, intent: &Intent) -> Result<Outcome, ChainError> {
        let what = intent.kind();
        let reverted = |reason: &str| ChainError::Reverted { what, reason: reason.to_owned() };
        let mut state = self.chain.state.lock().unwrap();
        state.performed.push((self.wallet, intent.clone()));
        match intent {
            Intent::Deposit { amount, .. } => {
                take(state.wallets.entry(self.wallet).or_default(), *amount, what)?;
                *state.deposits.entry(self.wallet).or_default() += amount.get();
            }
            Intent::Open { channels } => {
                for (config, amount) in channels {
                    take(state.deposits.entry(self.wallet).or_default(), *amount, what)?;
                    let facts = ChannelFacts {
                        reserved: *amount,
                        claimed: Amount::ZERO,
                        status: ChannelStatus::Open,
                    };
                    if state.channels.insert(config.id(&domain()), facts).is_some() {
                        return Err(reverted("exists"));
                    }
                }
            }
            Intent::TopUp { config, amount } => {
                take(state.deposits.entry(self.wallet).or_default(), *amount, what)?;
                let facts = state.channels.get_mut(&config.id(&domain()));
                let facts = facts.ok_or_else(|| reverted("unknown channel"))?;
                facts.reserved = facts.reserved.checked_add(*amount).unwrap();
            }
            Intent::Claim { claims } => {
                for claim in claims {
                    check_signature(claim)?;
                    let facts = state.channels.get_mut(&claim.config.id(&domain()));
                    let facts = facts.ok_or_else(|| reverted("unknown channel"))?;
                    if claim.amount > facts.reserved || facts.status == ChannelStatus::Closed {
                        return Err(reverted("not covered"));
                    }
                    let more = claim.amount.saturating_sub(facts.claimed).get();
                    facts.claimed = facts.claimed.max(claim.amount);
                    *state.wallets.entry(claim.config.payee).or_default() += more;
                }
            }
            Intent::CloseCooperatively { claim, payee_signature } => {
                let channel = claim.config.id(&domain());
                let facts = state.channels.get_mut(&channel);
                let facts = facts.ok_or_else(|| reverted("unknown channel"))?;
                if facts.status == ChannelStatus::Closed || claim.amount > facts.reserved {
                    return Err(reverted("closed or not covered"));
                }
                let body = CooperativeClose { channel, amount: claim.amount };
                Signed { body, signature: *payee_signature }
                    .verify(&domain(), claim.config.payee_authorizer)
                    .map_err(|_| reverted("the payee's signature"))?;
                let more = claim.amount.saturating_sub(facts.claimed).get();
                if more > 0 {
                    check_signature(claim)?;
                }
                facts.claimed = facts.claimed.max(claim.amount);
                facts.status = ChannelStatus::Closed;
                let rest = facts.reserved.saturating_sub(facts.claimed).get();
                *state.wallets.entry(claim.config.payee).or_default() += more;
                *state.deposits.entry(claim.config.payer).or_default() += rest;
            }
            _ => return Err(reverted("the fake chain cannot do this")),
        }
        let transaction =
            TransactionSummary { hash: B256::ZERO, block: 1, gas_used: 1, fee_wei: 1 };
        Ok(Outcome { transactions: vec![transaction] })
    }
}
