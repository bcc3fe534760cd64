//! The nodes that a carrier asks. What money depends on is what a quorum of them says: none of them
//! is believed alone, and one that is silent, behind or outvoted holds nothing up.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
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
};

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
    /// So many blocks behind what a quorum has reached.
    Behind(u64),
    /// It contradicts what a quorum says about the same block.
    Outvoted(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(reason) => write!(f, "does not answer ({reason})"),
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

struct Member {
    node: Node,
    fault: Mutex<Option<(Fault, Instant)>>,
}

impl Member {
    fn fault(&self) -> Option<Fault> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let (fault, since) = fault.as_ref()?;
        let aside = match fault {
            Fault::Outvoted(_) => OUTVOTED_FOR,
            Fault::Silent(_) | Fault::Behind(_) => SILENT_FOR,
        };
        (since.elapsed() < aside).then(|| fault.clone())
    }

    /// `None` takes back that it was silent or behind, not that it was outvoted.
    fn note(&self, found: Option<Fault>) {
        let outvoted = matches!(self.fault(), Some(Fault::Outvoted(_)));
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Some(found) if !outvoted || matches!(found, Fault::Outvoted(_)) => {
                if fault.as_ref().is_none_or(|(known, _)| *known != found) {
                    tracing::warn!(node = self.node.name(), "chain node {found}");
                }
                *fault = Some((found, Instant::now()));
            }
            None if !outvoted => *fault = None,
            _ => {}
        }
    }
}

/// All nodes of a carrier.
#[derive(Clone)]
pub(crate) struct Nodes {
    members: Arc<Vec<Member>>,
    /// How many must say the same.
    quorum: usize,
    name: String,
    retry_for: Duration,
    fee_max_wei: u128,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nodes").field(&self.name).finish()
    }
}

type Answer<R> = (usize, Result<R, NodeError>);

impl Nodes {
    /// The nodes of an endpoint. None is asked yet.
    pub(crate) fn new(endpoint: Endpoint, policy: &Policy) -> Result<Self, ChainError> {
        let name = endpoint.name();
        let (endpoints, quorum) = match endpoint {
            Endpoint::Several { endpoints, quorum } => (endpoints, quorum),
            one => (vec![one], 1),
        };
        if quorum == 0 || quorum > endpoints.len() {
            let reason = format!("{quorum} of {} nodes cannot agree", endpoints.len());
            return Err(ChainError::Unreachable { endpoint: name, reason });
        }
        let member = |endpoint| {
            let node = Node::new(endpoint, policy)?;
            Ok(Member { node, fault: Mutex::new(None) })
        };
        let members = endpoints.into_iter().map(member).collect::<Result<_, ChainError>>()?;
        Ok(Self {
            members: Arc::new(members),
            quorum,
            name,
            retry_for: policy.retry_for,
            fee_max_wei: policy.fee_max_wei,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn status(&self) -> Vec<NodeStatus> {
        let status =
            |it: &Member| NodeStatus { name: it.node.name().to_owned(), fault: it.fault() };
        self.members.iter().map(status).collect()
    }

    pub(crate) fn blame(&self, error: NodeError) -> ChainError {
        let endpoint = self.name.clone();
        match error {
            NodeError::Silent(reason) => ChainError::Unreachable { endpoint, reason },
            NodeError::Refused { code, message, .. } => {
                ChainError::Unreachable { endpoint, reason: format!("{message} ({code})") }
            }
            NodeError::Nonsense(reason) => ChainError::Nonsense { endpoint, reason },
        }
    }

    // --- asking ---

    /// Asks again, with growing pauses, while there is no answer to be had.
    async fn patiently<T, F: Future<Output = Result<T, NodeError>> + Send>(
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
            if error.is_verdict() || started.elapsed() + pause > self.retry_for {
                return Err(error);
            }
            tracing::debug!(nodes = %self.name, method, ?error, "asking again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
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
        order.sort_by_key(|index| self.members[*index].fault().is_some());
        let sound = order.iter().filter(|index| self.members[**index].fault().is_none()).count();
        let mut first = if all { sound.max(self.quorum) } else { self.quorum };
        let mut order = order.into_iter();
        let mut asked = FuturesUnordered::new();
        let mut answers = Vec::new();
        loop {
            for index in order.by_ref().take(first) {
                let answer = ask(self.members[index].node.clone());
                asked.push(async move { (index, answer.await) });
            }
            first = 0;
            let hedge = tokio::time::sleep(HEDGE);
            tokio::select! {
                Some((index, answer)) = asked.next() => {
                    self.members[index].note(match &answer {
                        Err(error) if !error.is_verdict() => Some(Fault::Silent(error.to_string())),
                        _ => None,
                    });
                    answers.push((index, answer));
                    if !enough(&answers) {
                        first = usize::from(asked.is_empty());
                    } else if !all || asked.is_empty() {
                        return answers;
                    }
                }
                () = hedge => {
                    if enough(&answers) {
                        return answers;
                    }
                    first = 1;
                }
            }
            if first > 0 && asked.is_empty() && order.len() == 0 {
                return answers;
            }
        }
    }

    /// What a quorum says. `same` tells whether two answers are one; of those that are, the one in
    /// the middle is given, by `by`. A node that says otherwise is `Outvoted` where `strict`.
    async fn vote<P: RpcSend, R: RpcRecv + Clone>(
        &self,
        method: &'static str,
        params: P,
        strict: bool,
        same: impl Fn(&R, &R) -> bool + Send + Sync,
        by: impl Fn(&R) -> U256 + Send + Sync,
    ) -> Result<R, NodeError> {
        let alike = |a: &Result<R, NodeError>, b: &Result<R, NodeError>| match (a, b) {
            (Ok(a), Ok(b)) => same(a, b),
            (Err(a), Err(b)) => a.is_verdict() && b.is_verdict() && a.says_as(b),
            _ => false,
        };
        let winners = |answers: &[Answer<R>]| -> Option<Vec<usize>> {
            (0..answers.len()).find_map(|at| {
                let with = |other: &usize| alike(&answers[at].1, &answers[*other].1);
                let alike: Vec<usize> = (0..answers.len()).filter(with).collect();
                (alike.len() >= self.quorum).then_some(alike)
            })
        };
        let ask = |node: Node| {
            let params = params.clone();
            async move { node.ask::<P, R>(method, params).await }
        };
        let mut answers = self.poll(false, ask, |answers| winners(answers).is_some()).await;
        let Some(mut winners) = winners(&answers) else {
            return Err(self.undecided(method, answers));
        };
        for (at, (index, answer)) in answers.iter().enumerate() {
            let says = answer.is_ok() || answer.as_ref().is_err_and(NodeError::is_verdict);
            if strict && says && !winners.contains(&at) {
                self.members[*index].note(Some(Fault::Outvoted(method)));
            }
        }
        winners.sort_by_key(|at| answers[*at].1.as_ref().map(&by).unwrap_or_default());
        answers.swap_remove(winners[winners.len() / 2]).1
    }

    /// Why there is no quorum.
    fn undecided<R>(&self, method: &'static str, answers: Vec<Answer<R>>) -> NodeError {
        let mut errors = Vec::new();
        let mut said = 0;
        for (index, answer) in answers {
            match answer {
                Err(error) if self.members.len() == 1 => return error,
                Err(error) if !error.is_verdict() => {
                    errors.push(format!("{}: {error}", self.members[index].node.name()));
                }
                _ => said += 1,
            }
        }
        let errors = errors.join("; ");
        match said {
            0 => NodeError::Silent(errors),
            1 => NodeError::Silent(format!("only one node answers {method}; {errors}")),
            _ => {
                NodeError::Nonsense(format!("the nodes contradict each other on {method} {errors}"))
            }
        }
    }

    /// A fact about a block that is named: nodes that are honest and know it say the same.
    async fn fact<P: RpcSend, R: RpcRecv + Clone + PartialEq>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, NodeError> {
        let vote =
            || self.vote(method, params.clone(), true, |a: &R, b: &R| a == b, |_| U256::ZERO);
        self.patiently(method, vote).await
    }

    /// A fact about now: honest nodes may differ for a moment, and none is blamed for it.
    async fn now<P: RpcSend, R: RpcRecv + Clone + PartialEq>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, NodeError> {
        let vote =
            || self.vote(method, params.clone(), false, |a: &R, b: &R| a == b, |_| U256::ZERO);
        self.patiently(method, vote).await
    }

    /// A figure on which honest nodes may differ: the one in the middle of a quorum's.
    async fn figure<P: RpcSend>(&self, method: &'static str, params: P) -> Result<U256, NodeError> {
        let vote = || self.vote(method, params.clone(), false, |_, _| true, |it: &U256| *it);
        self.patiently(method, vote).await
    }

    /// What all nodes in good standing say, at least a quorum.
    async fn gather<R: Send, F: Future<Output = Result<R, NodeError>> + Send>(
        &self,
        method: &'static str,
        ask: impl Fn(Node) -> F + Send + Sync,
    ) -> Result<Vec<(usize, R)>, NodeError> {
        let count = |answers: &[Answer<R>]| answers.iter().filter(|(_, it)| it.is_ok()).count();
        let answers = self.poll(true, ask, |answers| count(answers) >= self.quorum).await;
        if count(&answers) < self.quorum {
            return Err(self.undecided(method, answers));
        }
        Ok(answers.into_iter().filter_map(|(index, it)| Some((index, it.ok()?))).collect())
    }

    /// The furthest that a quorum has come with something that grows.
    fn reached<R>(&self, mut said: Vec<(usize, R)>, by: impl Fn(&R) -> u64) -> R {
        said.sort_by_key(|(_, it)| std::cmp::Reverse(by(it)));
        said.swap_remove(self.quorum - 1).1
    }

    // --- what a carrier needs ---

    pub(crate) async fn chain_id(&self) -> Result<u64, ChainError> {
        let id: U64 = self.fact("eth_chainId", ()).await.map_err(|error| self.blame(error))?;
        Ok(id.to())
    }

    /// The newest block that a quorum has reached.
    pub(crate) async fn newest(&self) -> Result<BlockFacts, ChainError> {
        let ask = |node: Node| async move { node.newest().await };
        let newest = self.patiently("the newest block", || self.gather("the newest block", ask));
        let newest = newest.await.map_err(|error| self.blame(error))?;
        Ok(self.reached(newest, |block| block.number.to()))
    }

    /// The newest block and the newest final one that a quorum has reached.
    pub(crate) async fn head(&self) -> Result<Head, ChainError> {
        let ask = |node: Node| async move { node.head().await };
        let heads = self.patiently("the head", || self.gather("the head", ask));
        let heads = heads.await.map_err(|error| self.blame(error))?;
        let newest = self.reached(heads.clone(), |head| head.number);
        for (index, head) in &heads {
            let behind = newest.number.saturating_sub(head.number);
            if behind > BEHIND_BLOCKS {
                self.members[*index].note(Some(Fault::Behind(behind)));
            }
        }
        let final_number = self.reached(heads, |head| head.final_number).final_number;
        Ok(Head { final_number, number: newest.number.max(final_number), ..newest })
    }

    /// Calls a contract at a block.
    pub(crate) async fn call(
        &self,
        target: Address,
        data: Bytes,
        block: u64,
    ) -> Result<Bytes, NodeError> {
        let request = json!({ "to": target, "data": data });
        self.fact("eth_call", (request, U64::from(block))).await
    }

    /// What a call would do now.
    pub(crate) async fn simulate(&self, request: Value) -> Result<Bytes, NodeError> {
        self.now("eth_call", (request, "latest")).await
    }

    /// The wallet's nonce at a block, or at the newest.
    pub(crate) async fn nonce(
        &self,
        wallet: Address,
        block: Option<u64>,
    ) -> Result<u64, ChainError> {
        let method = "eth_getTransactionCount";
        let nonce: Result<U64, NodeError> = match block {
            Some(block) => self.fact(method, (wallet, U64::from(block))).await,
            None => {
                let ask = |node: Node| async move { node.ask(method, (wallet, "latest")).await };
                let nonces = self.patiently(method, || self.gather(method, ask)).await;
                nonces.map(|nonces| self.reached(nonces, |nonce: &U64| nonce.to()))
            }
        };
        Ok(nonce.map_err(|error| self.blame(error))?.to())
    }

    pub(crate) async fn balance(
        &self,
        owner: Address,
        block: Option<u64>,
    ) -> Result<u128, ChainError> {
        let balance = match block {
            Some(block) => self.fact("eth_getBalance", (owner, U64::from(block))).await,
            None => self.figure("eth_getBalance", (owner, "latest")).await,
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
            Some(block) => self.fact("eth_getCode", (address, U64::from(block))).await,
            None => self.now("eth_getCode", (address, "latest")).await,
        };
        code.map_err(|error| self.blame(error))
    }

    /// The receipt of a transaction that is in a block.
    pub(crate) async fn receipt(&self, hash: B256) -> Result<Option<ReceiptFacts>, ChainError> {
        let receipt: Result<Option<ReceiptFacts>, _> =
            self.now("eth_getTransactionReceipt", (hash,)).await;
        let receipt = receipt.map_err(|error| self.blame(error))?;
        Ok(receipt.filter(|receipt| receipt.block_number.is_some()))
    }

    pub(crate) async fn estimate_gas(&self, request: &Value) -> Result<u64, NodeError> {
        Ok(self.figure("eth_estimateGas", (request.clone(),)).await?.saturating_to())
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

    /// How many nodes must say the same.
    pub(crate) fn quorum(&self) -> usize {
        self.quorum
    }

    /// What gas costs now, at most [`Policy::fee_max_wei`]: twice the base fee, so that the price
    /// covers six full blocks in a row, and the tip that the nodes advise.
    pub(crate) async fn fees(&self) -> Result<Fees, ChainError> {
        let Some(base) = self.newest().await?.base_fee_per_gas else {
            let price = self.figure("eth_gasPrice", ()).await.map_err(|error| self.blame(error))?;
            let price: u128 = price.saturating_to();
            return Ok(Fees { max_fee: price.min(self.fee_max_wei), tip: None });
        };
        let tip: u128 = match self.figure("eth_maxPriorityFeePerGas", ()).await {
            Ok(tip) => tip.saturating_to(),
            // Not every node has the method; a gwei is what they advise.
            Err(NodeError::Refused { .. }) => 1_000_000_000,
            Err(error) => return Err(self.blame(error)),
        };
        let max_fee = base.to::<u128>().saturating_mul(2).saturating_add(tip).min(self.fee_max_wei);
        Ok(Fees { max_fee, tip: Some(tip.min(max_fee)) })
    }
}
