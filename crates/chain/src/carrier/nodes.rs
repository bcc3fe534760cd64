//! The nodes that a carrier asks. What money depends on is what a quorum of them says: none of them
//! is believed alone, and one that is silent, behind or outvoted holds nothing up.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_json_rpc::{RpcRecv, RpcSend};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};
use sparewire_protocol::settlement::{ChainError, Head};
use tokio::time::Instant;

use super::{
    Policy,
    node::{BlockFacts, Endpoint, Fees, Node, NodeError, ReceiptFacts},
    quorum::Quorum,
};

/// Longest pause between two requests that a node does not ask for.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long nodes that are not needed for a quorum, or might be, are waited for.
const HEDGE: Duration = Duration::from_secs(1);
/// A node this many blocks behind what a quorum has reached is told as being behind.
const BEHIND_BLOCKS: u64 = 25;
/// How long a node with a fault is asked only where the others do not suffice.
const SILENT_FOR: Duration = Duration::from_secs(60);
const OUTVOTED_FOR: Duration = Duration::from_secs(600);

/// What is wrong with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not answer, or with errors.
    Silent(String),
    /// It limits our requests, and may say for how many seconds.
    Limited(u64),
    /// So many blocks behind what a quorum has reached.
    Behind(u64),
    /// It contradicts what a quorum says about the same block.
    Outvoted(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(reason) => write!(f, "does not answer ({reason})"),
            Self::Limited(0) => f.write_str("limits our requests"),
            Self::Limited(secs) => write!(f, "limits our requests, for {secs} s"),
            Self::Behind(blocks) => write!(f, "is {blocks} blocks behind"),
            Self::Outvoted(method) => write!(f, "contradicts the others ({method})"),
        }
    }
}

/// A node and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// What may be shown of its URL.
    pub name: String,
    /// What was last wrong with it, while it is set aside for it.
    pub fault: Option<Fault>,
}

/// What is held against a node.
#[derive(Default)]
struct Record {
    fault: Option<(Fault, Instant)>,
    /// When something was last logged about it.
    told: Option<Instant>,
}

struct Member {
    node: Node,
    record: Mutex<Record>,
}

impl Member {
    fn fault(&self) -> Option<Fault> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let (fault, since) = record.fault.as_ref()?;
        (since.elapsed() < aside_for(fault)).then(|| fault.clone())
    }

    /// The worse it was, the later it is asked.
    fn rank(&self) -> u8 {
        match self.fault() {
            None => 0,
            Some(Fault::Behind(_)) => 1,
            Some(Fault::Silent(_) | Fault::Limited(_)) => 2,
            Some(Fault::Outvoted(_)) => 3,
        }
    }

    /// Who was outvoted stays so for its time, whatever else is found.
    fn note(&self, found: Fault, aloud: bool) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let outvoted = |(fault, since): &(Fault, Instant)| {
            matches!(fault, Fault::Outvoted(_)) && since.elapsed() < OUTVOTED_FOR
        };
        if record.fault.as_ref().is_some_and(outvoted) && !matches!(found, Fault::Outvoted(_)) {
            return;
        }
        if aloud && record.told.is_none_or(|at| at.elapsed() >= aside_for(&found)) {
            tracing::warn!(node = self.node.name(), "a chain node {found}");
            record.told = Some(Instant::now());
        }
        record.fault = Some((found, Instant::now()));
    }

    /// Takes back what `over` holds for.
    fn forgive(&self, over: impl Fn(&Fault) -> bool) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.fault.take_if(|(fault, _)| over(fault));
    }
}

fn aside_for(fault: &Fault) -> Duration {
    match fault {
        Fault::Outvoted(_) => OUTVOTED_FOR,
        Fault::Silent(_) | Fault::Behind(_) => SILENT_FOR,
        Fault::Limited(secs) => SILENT_FOR.max(Duration::from_secs(*secs)),
    }
}

/// All nodes of a carrier.
#[derive(Clone)]
pub(crate) struct Nodes {
    members: Arc<Vec<Member>>,
    /// How many must say the same.
    quorum: Quorum,
    name: String,
    /// The furthest final block that a quorum has reached: nobody may differ on it.
    settled: Arc<AtomicU64>,
    /// The base fee when it was last asked for, in wei.
    base_fee: Arc<Mutex<Option<u128>>>,
    retry_for: Duration,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nodes").field(&self.name).finish()
    }
}

type Answer<R> = (usize, Result<R, NodeError>);

/// How answers are weighed.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    /// Ask all in good standing, not only as many as must agree.
    pub(super) all: bool,
    /// Hold it against a node if it is outvoted: honest ones cannot differ.
    pub(super) strict: bool,
    pub(super) middle: Middle,
}

/// Which of several figures is taken where two are in the middle.
#[derive(Clone, Copy)]
pub(super) enum Middle {
    Lower,
    Upper,
}

/// Who has used a nonce, as a node says.
#[derive(Clone, Copy, PartialEq)]
enum Displaced {
    Unused,
    Ours,
    Others,
}

impl Nodes {
    /// The nodes of an endpoint. None is asked yet.
    pub(crate) fn new(endpoint: Endpoint, policy: &Policy) -> Result<Self, ChainError> {
        let name = endpoint.name();
        let (endpoints, quorum) = match endpoint {
            Endpoint::Several { endpoints, quorum } => (endpoints, quorum),
            one => (vec![one], 1),
        };
        let Some(quorum) = Quorum::of(quorum, endpoints.len()) else {
            let reason = format!("{quorum} of {} nodes cannot agree", endpoints.len());
            return Err(ChainError::Unreachable { endpoint: name, reason });
        };
        let mut names: Vec<String> = Vec::new();
        let member = |endpoint: Endpoint| {
            let name = endpoint.name();
            names.push(name.clone());
            let mut node = Node::new(endpoint, policy)?;
            // Two URLs of one host differ in what is not shown.
            match names.iter().filter(|it| **it == name).count() {
                0 | 1 => {}
                nth => node.rename(format!("{name} (number {nth})")),
            }
            Ok(Member { node, record: Mutex::default() })
        };
        let members = endpoints.into_iter().map(member).collect::<Result<_, ChainError>>()?;
        Ok(Self {
            members: Arc::new(members),
            quorum,
            name,
            settled: Arc::default(),
            base_fee: Arc::default(),
            retry_for: policy.retry_for,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is more than one: one node's word is all there is, several are weighed.
    pub(crate) fn several(&self) -> bool {
        self.members.len() > 1
    }

    pub(crate) fn status(&self) -> Vec<NodeStatus> {
        let status =
            |it: &Member| NodeStatus { name: it.node.name().to_owned(), fault: it.fault() };
        self.members.iter().map(status).collect()
    }

    /// The base fee when it was last asked for, in wei; `None` on chains without one.
    pub(crate) fn base_fee(&self) -> Option<u128> {
        *self.base_fee.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn blame(&self, error: NodeError) -> ChainError {
        let endpoint = self.name.clone();
        match error {
            NodeError::Silent(reason) => ChainError::Unreachable { endpoint, reason },
            error @ NodeError::Limited(_) => {
                ChainError::Unreachable { endpoint, reason: error.to_string() }
            }
            NodeError::Refused { code, message, .. } => {
                ChainError::Unreachable { endpoint, reason: format!("{message} ({code})") }
            }
            NodeError::Nonsense(reason) => ChainError::Nonsense { endpoint, reason },
        }
    }

    // --- asking ---

    /// Asks again, with growing pauses, while there is no answer to be had.
    pub(super) async fn patiently<T, F: Future<Output = Result<T, NodeError>> + Send>(
        &self,
        method: &'static str,
        ask: impl Fn() -> F + Send + Sync,
    ) -> Result<T, NodeError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // Where it says when, it is not asked before.
            pause = pause.max(error.limit().unwrap_or_default());
            if !error.is_passing() || started.elapsed() + pause > self.retry_for {
                return Err(error);
            }
            tracing::debug!(nodes = %self.name, method, ?error, "asking again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Holds something against a node. The only one's fault is an error of its own, told as such.
    fn note(&self, index: usize, found: Fault) {
        self.members[index].note(found, self.several());
    }

    /// Asks nodes until `enough` says so, those in good standing first: as many at once as must
    /// agree, and one more for each that fails, or when it takes long. With `all`, all that are in
    /// good standing at once, and those who are slow are not waited for once there is enough.
    async fn poll<R: Send, F: Future<Output = Result<R, NodeError>> + Send>(
        &self,
        all: bool,
        ask: impl Fn(Node) -> F + Send + Sync,
        enough: impl Fn(&[Answer<R>]) -> bool + Send + Sync,
    ) -> Vec<Answer<R>> {
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by_key(|index| self.members[*index].rank());
        let sound = order.iter().filter(|index| self.members[**index].rank() == 0).count();
        let mut more = if all { sound.max(self.quorum.needed()) } else { self.quorum.needed() };
        let mut order = order.into_iter();
        let mut asked = FuturesUnordered::new();
        let mut waiting: Vec<(usize, Instant)> = Vec::new();
        let mut answers = Vec::new();
        let mut slowest = Duration::ZERO;
        loop {
            for index in order.by_ref().take(more) {
                let answer = ask(self.members[index].node.clone());
                asked.push(async move { (index, answer.await) });
                waiting.push((index, Instant::now()));
            }
            if asked.is_empty() {
                break;
            }
            more = tokio::select! {
                Some((index, answer)) = asked.next() => {
                    if let Some(at) = waiting.iter().position(|(waiting, _)| *waiting == index) {
                        slowest = slowest.max(waiting.swap_remove(at).1.elapsed());
                    }
                    match &answer {
                        Err(error) if error.is_silence() => {
                            self.note(index, match error.limit() {
                                Some(after) => Fault::Limited(after.as_secs()),
                                None => Fault::Silent(error.to_string()),
                            });
                        }
                        _ => self.members[index]
                            .forgive(|it| matches!(it, Fault::Silent(_) | Fault::Limited(_))),
                    }
                    let failed = answer.as_ref().is_err_and(|error| !error.is_verdict());
                    answers.push((index, answer));
                    match enough(&answers) {
                        true if !all || asked.is_empty() => break,
                        true => 0,
                        false => usize::from(failed || asked.is_empty()),
                    }
                }
                () = tokio::time::sleep(HEDGE) => {
                    if enough(&answers) {
                        break;
                    }
                    1
                }
            };
        }
        // Who is left behind by far, the others having answered, would be waited for each time.
        for (index, since) in waiting {
            if since.elapsed() >= HEDGE.max(slowest * 2) {
                let secs = since.elapsed().as_secs();
                self.note(index, Fault::Silent(format!("no answer within {secs} s")));
            }
        }
        answers
    }

    /// What a quorum says. `same` tells whether two answers are one; of those that are, the one in
    /// the middle is given, by `by`. A node that says otherwise is `Outvoted` where `strict`.
    async fn vote<P: RpcSend, R: RpcRecv + Clone>(
        &self,
        method: &'static str,
        params: P,
        rule: Rule,
        same: impl Fn(&R, &R) -> bool + Send + Sync,
        by: impl Fn(&R) -> U256 + Send + Sync,
    ) -> Result<R, NodeError> {
        let ask = |node: Node| {
            let params = params.clone();
            async move { node.ask::<P, R>(method, params).await }
        };
        self.vote_on(method, ask, rule, same, by).await
    }

    /// The same for whatever it takes to have a node's answer.
    pub(super) async fn vote_on<R: Send, F: Future<Output = Result<R, NodeError>> + Send>(
        &self,
        method: &'static str,
        ask: impl Fn(Node) -> F + Send + Sync,
        rule: Rule,
        same: impl Fn(&R, &R) -> bool + Send + Sync,
        by: impl Fn(&R) -> U256 + Send + Sync,
    ) -> Result<R, NodeError> {
        let alike = |a: &Result<R, NodeError>, b: &Result<R, NodeError>| match (a, b) {
            (Ok(a), Ok(b)) => same(a, b),
            (Err(a), Err(b)) => a.is_verdict() && b.is_verdict() && a.says_as(b),
            _ => false,
        };
        let winners = |answers: &[Answer<R>]| {
            self.quorum.agreed(answers.len(), |a, b| alike(&answers[a].1, &answers[b].1))
        };
        let mut answers = self.poll(rule.all, ask, |answers| winners(answers).is_some()).await;
        let Some(mut winners) = winners(&answers) else {
            let said = |answer: &&Answer<R>| match &answer.1 {
                Ok(_) => true,
                Err(error) => error.is_verdict(),
            };
            let mut said = answers.iter().filter(said);
            let first = said.next();
            let contradicted = first.is_some_and(|a| said.any(|b| !alike(&a.1, &b.1)));
            return Err(self.undecided(method, answers, contradicted));
        };
        for (at, (index, answer)) in answers.iter().enumerate() {
            let says = answer.as_ref().map_or_else(NodeError::is_revert, |_| true);
            if rule.strict && says && !winners.contains(&at) {
                self.note(*index, Fault::Outvoted(method));
            }
        }
        // Among refusals, one that tells the contract's reason goes before.
        winners.sort_by_key(|at| match &answers[*at].1 {
            Ok(answer) => (by(answer), false),
            Err(error) => (U256::ZERO, !error.is_revert()),
        });
        let middle = match (&answers[winners[0]].1, rule.middle) {
            (Err(_), _) => 0,
            (Ok(_), Middle::Lower) => (winners.len() - 1) / 2,
            (Ok(_), Middle::Upper) => winners.len() / 2,
        };
        answers.swap_remove(winners[middle]).1
    }

    /// Why there is no quorum.
    fn undecided<R>(
        &self,
        method: &'static str,
        answers: Vec<Answer<R>>,
        contradicted: bool,
    ) -> NodeError {
        let mut errors = Vec::new();
        let asked = answers.len();
        for (index, answer) in answers {
            let Err(error) = answer else { continue };
            if !self.several() {
                return error;
            }
            errors.push(format!("{}: {error}", self.members[index].node.name()));
        }
        let failed = errors.len();
        let errors = errors.join("; ");
        if contradicted {
            let more = if failed == 0 { String::new() } else { format!(" ({errors})") };
            return NodeError::Nonsense(format!(
                "the nodes contradict each other on {method}{more}"
            ));
        }
        let (said, needed) = (asked - failed, self.quorum.needed());
        NodeError::Silent(match said {
            0 => errors,
            _ => format!("{method} needs {needed} nodes that agree, and has {said}; {errors}"),
        })
    }
    /// What a quorum says, all of it the same. Where honest nodes cannot differ, `strict`.
    async fn agreed<P: RpcSend, R: RpcRecv + Clone + PartialEq>(
        &self,
        method: &'static str,
        params: P,
        strict: bool,
    ) -> Result<R, NodeError> {
        let rule = Rule { all: false, strict, middle: Middle::Lower };
        let vote =
            || self.vote(method, params.clone(), rule, |a: &R, b: &R| a == b, |_| U256::ZERO);
        self.patiently(method, vote).await
    }

    /// A fact about a block: of one that is final, honest nodes say the same.
    async fn fact<P: RpcSend, R: RpcRecv + Clone + PartialEq>(
        &self,
        method: &'static str,
        params: P,
        block: u64,
    ) -> Result<R, NodeError> {
        self.agreed(method, params, self.is_settled(block)).await
    }

    /// A figure on which honest nodes may differ: the one in the middle of all that are told.
    async fn figure<P: RpcSend>(
        &self,
        method: &'static str,
        params: P,
        middle: Middle,
    ) -> Result<U256, NodeError> {
        let rule = Rule { all: true, strict: false, middle };
        let vote = || self.vote(method, params.clone(), rule, |_, _| true, |it: &U256| *it);
        self.patiently(method, vote).await
    }

    /// What all nodes in good standing say, at least a quorum.
    async fn gather<R: Send, F: Future<Output = Result<R, NodeError>> + Send>(
        &self,
        method: &'static str,
        ask: impl Fn(Node) -> F + Send + Sync,
    ) -> Result<Vec<(usize, R)>, NodeError> {
        let count = |answers: &[Answer<R>]| answers.iter().filter(|(_, it)| it.is_ok()).count();
        let answers = self.poll(true, ask, |answers| count(answers) >= self.quorum.needed()).await;
        if count(&answers) < self.quorum.needed() {
            return Err(self.undecided(method, answers, false));
        }
        Ok(answers.into_iter().filter_map(|(index, it)| Some((index, it.ok()?))).collect())
    }

    /// The furthest that a quorum has come with something that grows.
    fn reached<R>(&self, said: &[(usize, R)], by: impl Fn(&R) -> u64) -> u64 {
        let reached = self.quorum.reached(said.iter().map(|(_, it)| by(it)));
        reached.unwrap_or(0) // `gather` gives a quorum at least
    }

    // --- what a carrier needs ---

    /// The chain's id; who is on another is known by it from the start.
    pub(crate) async fn chain_id(&self) -> Result<u64, ChainError> {
        let rule = Rule { all: true, strict: true, middle: Middle::Lower };
        let (method, same) = ("eth_chainId", |a: &U64, b: &U64| a == b);
        let vote = || self.vote(method, (), rule, same, |_| U256::ZERO);
        let id = self.patiently(method, vote).await.map_err(|error| self.blame(error))?;
        Ok(id.to())
    }

    async fn blocks(&self) -> Result<Vec<(usize, BlockFacts)>, ChainError> {
        let ask = |node: Node| async move { node.newest().await };
        let blocks = self.patiently("the newest block", || self.gather("the newest block", ask));
        blocks.await.map_err(|error| self.blame(error))
    }

    /// The newest block that a quorum has reached.
    pub(crate) async fn newest(&self) -> Result<u64, ChainError> {
        Ok(self.reached(&self.blocks().await?, |block| block.number.to()))
    }

    /// Gas limit of the newest block: what a quorum says it is at least, if they tell.
    pub(crate) async fn gas_limit(&self) -> Result<Option<u64>, ChainError> {
        let blocks = self.blocks().await?;
        let limits = blocks.iter().filter_map(|(_, it)| Some(it.gas_limit?.to()));
        Ok(self.quorum.reached(limits))
    }

    /// How far a quorum has come: with the newest block, its time, and the final one.
    pub(crate) async fn head(&self) -> Result<Head, ChainError> {
        let ask = |node: Node| async move { node.head().await };
        let heads = self.patiently("the head", || self.gather("the head", ask));
        let heads = heads.await.map_err(|error| self.blame(error))?;
        // Each by itself: a node may tell the truth about one and lie about another.
        let number = self.reached(&heads, |head| head.number);
        let time_secs = self.reached(&heads, |head| head.time_secs);
        let final_number = self.reached(&heads, |head| head.final_number);
        for (index, head) in &heads {
            match number.saturating_sub(head.number) {
                behind if behind > BEHIND_BLOCKS => self.note(*index, Fault::Behind(behind)),
                _ => self.members[*index].forgive(|it| matches!(it, Fault::Behind(_))),
            }
        }
        self.settled.fetch_max(final_number, Ordering::Relaxed);
        Ok(Head { number: number.max(final_number), time_secs, final_number })
    }

    /// Whether `block` is final, as far as a quorum has told: nobody may differ on it.
    pub(super) fn is_settled(&self, block: u64) -> bool {
        block <= self.settled.load(Ordering::Relaxed)
    }

    /// What code that is made for the occasion returns at a block.
    pub(crate) async fn run(&self, code: Bytes, block: u64) -> Result<Bytes, NodeError> {
        let request = json!({ "data": code });
        self.fact("eth_call", (request, U64::from(block)), block).await
    }

    /// Calls a contract at a block.
    pub(crate) async fn call(
        &self,
        target: Address,
        data: Bytes,
        block: u64,
    ) -> Result<Bytes, NodeError> {
        let request = json!({ "to": target, "data": data });
        self.fact("eth_call", (request, U64::from(block)), block).await
    }

    /// What a call would do now.
    pub(crate) async fn simulate(&self, request: Value) -> Result<Bytes, NodeError> {
        self.agreed("eth_call", (request, "latest"), false).await
    }

    /// The wallet's nonce at the newest block.
    pub(crate) async fn nonce(&self, wallet: Address) -> Result<u64, ChainError> {
        let method = "eth_getTransactionCount";
        let ask = |node: Node| async move { node.ask(method, (wallet, "latest")).await };
        let nonces = self.patiently(method, || self.gather(method, ask)).await;
        let nonces = nonces.map_err(|error| self.blame(error))?;
        Ok(self.reached(&nonces, |nonce: &U64| nonce.to()))
    }

    /// Whether, at a final block, the wallet has used `nonce` for something else than one of
    /// `hashes`. Each node must say both, so that none that lags counts; a quorum must say so, and
    /// nobody may know one of ours: signing anew for a transaction that is there pays twice.
    pub(crate) async fn displaced(
        &self,
        wallet: Address,
        nonce: u64,
        hashes: &[B256],
        block: u64,
    ) -> Result<bool, ChainError> {
        let ask = |node: Node| async move {
            let used: U64 = node.ask("eth_getTransactionCount", (wallet, U64::from(block))).await?;
            if used.to::<u64>() <= nonce {
                return Ok(Displaced::Unused);
            }
            for hash in hashes {
                let receipt: Option<ReceiptFacts> =
                    node.ask("eth_getTransactionReceipt", (*hash,)).await?;
                if receipt.is_some_and(|receipt| receipt.block_number.is_some()) {
                    return Ok(Displaced::Ours);
                }
            }
            Ok(Displaced::Others)
        };
        let method = "a nonce";
        let said = self.patiently(method, || self.gather(method, ask)).await;
        let said = said.map_err(|error| self.blame(error))?;
        let count = |what: Displaced| said.iter().filter(|(_, it)| *it == what).count();
        Ok(self.quorum.displaced(count(Displaced::Others), count(Displaced::Ours)))
    }

    pub(crate) async fn balance(
        &self,
        owner: Address,
        block: Option<u64>,
    ) -> Result<u128, ChainError> {
        let balance = match block {
            Some(block) => self.fact("eth_getBalance", (owner, U64::from(block)), block).await,
            None => self.figure("eth_getBalance", (owner, "latest"), Middle::Upper).await,
        };
        Ok(balance.map_err(|error| self.blame(error))?.saturating_to())
    }

    /// A contract's code at a block, or at the newest.
    pub(crate) async fn code(
        &self,
        address: Address,
        block: Option<u64>,
    ) -> Result<Bytes, ChainError> {
        let code = match block {
            Some(block) => self.fact("eth_getCode", (address, U64::from(block)), block).await,
            None => self.agreed("eth_getCode", (address, "latest"), false).await,
        };
        code.map_err(|error| self.blame(error))
    }

    /// The receipt of a transaction that is in a block. What it cost may be told differently: what
    /// a rollup adds is not every node's to tell.
    pub(crate) async fn receipt(&self, hash: B256) -> Result<Option<ReceiptFacts>, ChainError> {
        let method = "eth_getTransactionReceipt";
        let what = |it: &Option<ReceiptFacts>| {
            it.as_ref().map(|it| (it.block_number, it.status, it.gas_used))
        };
        let fee =
            |it: &Option<ReceiptFacts>| U256::from(it.as_ref().map_or(0, ReceiptFacts::fee_wei));
        let rule = Rule { all: false, strict: false, middle: Middle::Upper };
        let vote = || self.vote(method, (hash,), rule, |a, b| what(a) == what(b), fee);
        let receipt = self.patiently(method, vote).await.map_err(|error| self.blame(error))?;
        Ok(receipt.filter(|receipt| receipt.block_number.is_some()))
    }

    pub(crate) async fn estimate_gas(&self, request: &Value) -> Result<u64, NodeError> {
        let estimate = self.figure("eth_estimateGas", (request.clone(),), Middle::Upper).await?;
        Ok(estimate.saturating_to())
    }

    /// Hands a transaction to all nodes: what they said, up to the first that took it. Those that
    /// have not answered by then still get it.
    pub(crate) async fn send_raw(&self, raw: &Bytes) -> Vec<Result<B256, NodeError>> {
        let mut sends = tokio::task::JoinSet::new();
        for member in self.members.iter() {
            let (node, raw) = (member.node.clone(), raw.clone());
            sends.spawn(async move { node.ask("eth_sendRawTransaction", (raw,)).await });
        }
        let mut said = Vec::new();
        while let Some(answer) = sends.join_next().await {
            let lost = |_| Err(NodeError::Silent("asking it ended unexpectedly".to_owned()));
            let answer: Result<B256, NodeError> = answer.unwrap_or_else(lost);
            let taken = answer.is_ok();
            said.push(answer);
            if taken {
                sends.detach_all();
                break;
            }
        }
        said
    }

    /// What gas costs now, at most `cap` wei: twice the base fee, so that the price
    /// covers six full blocks in a row, and the tip that the nodes advise.
    pub(crate) async fn fees(&self, cap: u128) -> Result<Fees, ChainError> {
        // With a base fee or without: as most say, and of those who tell one, the middle; of two
        // there, the lower: too little is raised, too much is spent.
        let blocks = self.blocks().await?;
        let mut bases: Vec<u128> =
            blocks.iter().filter_map(|(_, it)| Some(it.base_fee_per_gas?.to())).collect();
        bases.sort_unstable();
        let told = bases.len() * 2 > blocks.len();
        let base = bases.get(bases.len().saturating_sub(1) / 2).copied().filter(|_| told);
        *self.base_fee.lock().unwrap_or_else(PoisonError::into_inner) = base;
        let Some(base) = base else {
            let price = self.figure("eth_gasPrice", (), Middle::Lower).await;
            let price = price.map_err(|error| self.blame(error))?;
            let price: u128 = price.saturating_to();
            let max_fee = price.min(cap);
            return Ok(Fees { expected: max_fee, max_fee, tip: None });
        };
        let tip: u128 = match self.figure("eth_maxPriorityFeePerGas", (), Middle::Lower).await {
            Ok(tip) => tip.saturating_to(),
            // Not every node has the method; a gwei is what they advise.
            Err(NodeError::Refused { .. }) => 1_000_000_000,
            Err(error) => return Err(self.blame(error)),
        };
        let max_fee = base.saturating_mul(2).saturating_add(tip).min(cap);
        let expected = base.saturating_add(tip).min(max_fee);
        Ok(Fees { expected, max_fee, tip: Some(tip.min(max_fee)) })
    }
}
