//! Many questions of one view in one `eth_call`: the call "deploys" a program that asks the contract
//! itself and returns the answers, where code would be. No contract of our own or of others has to
//! be on the chain for it, no batch of requests has to be allowed, and a quorum votes on one answer.

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolCall;
use futures_util::{StreamExt, TryStreamExt, stream};
use sparewire_core::ChannelId;
use sparewire_protocol::{channel::ChannelFacts, settlement::ChainError};

use super::{EvmChain, NodeError, facts_of};
use crate::contracts::Channels;

/// What a program may return: the most that code may have (EIP-170).
const ANSWER_BYTES_MAX: usize = 24_576;
/// What a program may have in all (EIP-3860).
const PROGRAM_BYTES_MAX: usize = 49_152;
/// Questions at a time where a node does not run programs.
const QUESTIONS_MAX: usize = 16;

/// How one view is asked: its selector, and the bytes of its arguments and of its answer.
#[derive(Clone, Copy)]
struct View {
    selector: [u8; 4],
    arguments: u8,
    answer: u8,
}

/// `channel(bytes32)` answers with four words.
const CHANNEL: View =
    View { selector: Channels::channelCall::SELECTOR, arguments: 32, answer: 128 };
/// `depositOf(address,address)` and `claimableOf(address,address)`: with one.
const DEPOSIT: View =
    View { selector: Channels::depositOfCall::SELECTOR, arguments: 64, answer: 32 };
const CLAIMABLE: View =
    View { selector: Channels::claimableOfCall::SELECTOR, arguments: 64, answer: 32 };

/// What an account holds at the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    Deposit,
    Claimable,
}

impl View {
    /// Most questions of one program.
    const fn questions_max(self) -> usize {
        let by_answer = ANSWER_BYTES_MAX / self.answer as usize;
        let by_program = (PROGRAM_BYTES_MAX - 256) / self.arguments as usize;
        if by_answer < by_program { by_answer } else { by_program }
    }

    /// Asks `target` once for each of `questions` (arguments in ABI encoding, which follow the
    /// program) and returns the answers one after the other. It reverts where an answer has another
    /// length than it should.
    fn program(self, target: Address, questions: &[Vec<u8>]) -> Bytes {
        const ANSWERS_AT: u8 = 0x80; // in memory, above the longest question
        let Self { selector: [a, b, c, d], arguments, answer } = self;
        let mut code = vec![0x63, a, b, c, d, 0x60, 0xe0, 0x1b, 0x5f, 0x52]; // mem[0..4] = selector
        code.extend([0x60, 0, 0x60, ANSWERS_AT]); // stack: at (of the questions), out
        let questions_at = code.len() - 3;
        let next = code.len() as u8;
        code.extend([0x5b, 0x81, 0x38, 0x14, 0x60, 0, 0x57]); // at == codesize: done
        let jump_done = code.len() - 2;
        code.extend([0x60, arguments, 0x82, 0x60, 4, 0x39]); // mem[4..] = code[at..]
        code.extend([0x60, answer, 0x81, 0x60, arguments + 4, 0x5f, 0x73]);
        code.extend(target.as_slice());
        code.extend([0x5a, 0xfa]); // staticcall(gas, target, 0, 4 + arguments, out, answer)
        code.extend([0x3d, 0x60, answer, 0x14, 0x16, 0x60, 0, 0x57]); // ok, and of that length?
        let jump_asked = code.len() - 2;
        code.extend([0x5f, 0x5f, 0xfd]); // else revert
        code[jump_asked] = code.len() as u8;
        code.extend([0x5b, 0x60, answer, 0x01]); // out += answer
        code.extend([0x90, 0x60, arguments, 0x01, 0x90]); // at += arguments
        code.extend([0x60, next, 0x56]);
        code[jump_done] = code.len() as u8;
        code.extend([0x5b, 0x60, ANSWERS_AT, 0x90, 0x03]); // done: out - ANSWERS_AT
        code.extend([0x60, ANSWERS_AT, 0xf3]); // return
        code[questions_at] = code.len() as u8;
        questions.iter().for_each(|question| code.extend(question));
        code.into()
    }
}

impl EvmChain {
    /// What state says of channels at a block, in their order; with the time at which a close that
    /// was started can be finished, which a closed channel keeps (0 where none was started).
    pub(crate) async fn channels_at(
        &self,
        ids: &[ChannelId],
        block: u64,
    ) -> Result<Vec<(Option<ChannelFacts>, u64)>, ChainError> {
        let questions: Vec<_> = ids.iter().map(|id| id.0.to_vec()).collect();
        let answers = self.ask_many(CHANNEL, questions, block).await?;
        let facts = answers.iter().map(|answer| {
            let state = Channels::channelCall::abi_decode_returns(answer);
            let state = state.map_err(|error| error.to_string())?;
            Ok((facts_of(&state)?, state.closeAt.to()))
        });
        let facts: Result<_, String> = facts.collect();
        facts.map_err(|reason| self.follower.node.blame(NodeError::Nonsense(reason)))
    }

    /// What accounts (wallet and token) hold at a block, in their order.
    pub(crate) async fn holdings_at(
        &self,
        what: Holding,
        accounts: &[(Address, Address)],
        block: u64,
    ) -> Result<Vec<U256>, ChainError> {
        let questions = accounts.iter().map(|(owner, token)| {
            [owner.into_word().as_slice(), token.into_word().as_slice()].concat()
        });
        let view = match what {
            Holding::Deposit => DEPOSIT,
            Holding::Claimable => CLAIMABLE,
        };
        let answers = self.ask_many(view, questions.collect(), block).await?;
        Ok(answers.iter().map(|answer| U256::from_be_slice(answer)).collect())
    }

    /// The answers to many questions, each of the view's length.
    async fn ask_many(
        &self,
        view: View,
        questions: Vec<Vec<u8>>,
        block: u64,
    ) -> Result<Vec<Bytes>, ChainError> {
        let (target, node) = (self.domain.contract, &self.follower.node);
        let mut answers = Vec::with_capacity(questions.len());
        for chunk in questions.chunks(view.questions_max()) {
            if chunk.len() > 1 {
                match node.run(view.program(target, chunk), block).await {
                    Ok(told) if told.len() == chunk.len() * usize::from(view.answer) => {
                        let length = usize::from(view.answer);
                        answers.extend(
                            (0..chunk.len()).map(|at| told.slice(at * length..(at + 1) * length)),
                        );
                        continue;
                    }
                    // Some nodes run no code that is not on the chain: then one by one.
                    Ok(_) => tracing::debug!("a node does not answer many questions at once"),
                    Err(error @ NodeError::Refused { .. }) if error.is_verdict() => {
                        tracing::debug!(%error, "a node takes no many questions at once");
                    }
                    Err(error) => return Err(node.blame(error)),
                }
            }
            let one = |question: &Vec<u8>| [view.selector.as_slice(), question].concat();
            let asked: Vec<Bytes> = chunk.iter().map(|question| one(question).into()).collect();
            let told: Vec<Bytes> = stream::iter(asked)
                .map(|data| self.read_raw(target, data, block))
                .buffered(QUESTIONS_MAX)
                .try_collect()
                .await?;
            if told.iter().any(|answer| answer.len() != usize::from(view.answer)) {
                let reason = "an answer of another length than the contract's".to_owned();
                return Err(node.blame(NodeError::Nonsense(reason)));
            }
            answers.extend(told);
        }
        Ok(answers)
    }
}
