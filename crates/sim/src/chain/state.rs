//! The real contracts on revm: the state they start from, transactions, and reads at any block.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_sol_types::SolCall;
use revm::{
    Context, DatabaseRef, ExecuteEvm, MainBuilder, MainContext,
    context::{
        BlockEnv, CfgEnv, TxEnv,
        result::{EVMError, ExecutionResult, ResultAndState},
    },
    database_interface::WrapDatabaseRef,
    primitives::{eip7825::TX_GAS_LIMIT_CAP, hardfork::SpecId},
    state::{AccountInfo, Bytecode},
};
use sparewire_chain::{
    Call,
    carrier::facts_of,
    contracts::{Channels, TestToken},
    evm::{AccountState, Changes, World},
};
use sparewire_core::{Amount, ChannelId};
use sparewire_protocol::{channel::ChannelFacts, settlement::Funds};

use super::{Transaction, block::Block};

/// EIP-155 id of every simulated chain.
pub(super) const CHAIN_ID: u64 = 7357;
/// Gas limit of a block.
pub(super) const BLOCK_GAS: u64 = 60_000_000;
/// Who gets the priority fees.
pub(super) const BUILDER: Address = Address::repeat_byte(0xfe);
/// Who deployed the contracts and mints.
const FAUCET: Address = Address::repeat_byte(0xfa);

/// The world right after both contracts were deployed.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) world: World,
    pub(super) token: Address,
    pub(super) contract: Address,
}

/// Built once; every chain starts from a copy.
pub(super) fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut world = World::default();
        let mut create = |nonce, code: &Bytes| {
            let env = TxEnv { kind: TxKind::Create, nonce, ..free(FAUCET, code.clone()) };
            let done = execute(StateAt::newest(&world), config(), block_env(0, 0, 0), env)
                .unwrap_or_else(|words| panic!("a contract cannot be deployed: {words}"));
            assert!(done.result.is_success(), "a contract cannot be deployed: {:?}", done.result);
            world.apply(&Changes::from_revm(done.state));
            FAUCET.create(nonce)
        };
        let token = create(0, &TestToken::BYTECODE);
        let contract = create(1, &Channels::BYTECODE);
        Base { world, token, contract }
    })
}

/// Gives an owner tokens by the token's own `mint`.
pub(super) fn mint(world: &mut World, to: Address, amount: u128) {
    let data = TestToken::mintCall { to, amount: U256::from(amount) }.abi_encode();
    let nonce = world.accounts.get(&FAUCET).map_or(0, |account| account.nonce);
    let kind = TxKind::Call(base().token);
    let env = TxEnv { kind, nonce, ..free(FAUCET, data.into()) };
    let done = execute(StateAt::newest(world), config(), block_env(0, 0, 0), env)
        .unwrap_or_else(|words| panic!("no tokens can be minted: {words}"));
    assert!(done.result.is_success(), "no tokens can be minted: {:?}", done.result);
    world.apply(&Changes::from_revm(done.state));
}

/// The state after some block.
#[derive(Clone, Copy)]
pub(super) struct StateAt<'a> {
    world: &'a World,
    /// The blocks since then, oldest first: their undo records say what they changed.
    since: &'a [Arc<Block>],
    /// Which slots were read, for whoever wants to know.
    seen: Option<&'a RefCell<BTreeSet<Slot>>>,
}

/// A slot of a contract.
pub(super) type Slot = (Address, U256);

impl<'a> StateAt<'a> {
    pub(super) fn newest(world: &'a World) -> Self {
        Self { world, since: &[], seen: None }
    }

    pub(super) fn before(world: &'a World, since: &'a [Arc<Block>]) -> Self {
        Self { world, since, seen: None }
    }

    /// The same, noting in `seen` what its answers depend on.
    pub(super) fn noting(self, seen: &'a RefCell<BTreeSet<Slot>>) -> Self {
        Self { seen: Some(seen), ..self }
    }

    pub(super) fn account(&self, address: Address) -> AccountState {
        self.find(address).unwrap_or_default()
    }

    fn find(&self, address: Address) -> Option<AccountState> {
        let old = self.since.iter().find_map(|block| block.undo.accounts.get(&address));
        old.copied().unwrap_or_else(|| self.world.accounts.get(&address).copied())
    }
}

impl DatabaseRef for StateAt<'_> {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(self.find(address).map(|account| AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            account_id: None,
            code: None,
        }))
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.world.code.get(&code_hash).cloned().unwrap_or_default())
    }

    fn storage_ref(&self, address: Address, index: U256) -> Result<U256, Infallible> {
        if let Some(seen) = self.seen {
            seen.borrow_mut().insert((address, index));
        }
        let old = self.since.iter().find_map(|block| block.undo.slots.get(&(address, index)));
        Ok(old.copied().unwrap_or_else(|| self.world.slot(address, index)))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        Ok(keccak256(number.to_be_bytes())) // neither contract asks for one
    }
}

/// Asks the contracts. They answer from state alone, so a question that fails is a bug.
impl StateAt<'_> {
    pub(super) fn read<C: SolCall>(&self, to: Address, call: &C) -> C::Return {
        let call = Call { target: Some(to), data: call.abi_encode().into(), value: U256::ZERO };
        let output = match self.simulate(Address::ZERO, &call, 0, 0) {
            ExecutionResult::Success { output, .. } => output.into_data(),
            other => panic!("{} cannot be read: {other:?}", C::SIGNATURE),
        };
        C::abi_decode_returns(&output).unwrap_or_else(|error| panic!("{}: {error}", C::SIGNATURE))
    }

    /// What a call would do in a block of this number and time (seconds).
    pub(super) fn simulate(
        &self,
        from: Address,
        call: &Call,
        number: u64,
        time_secs: u64,
    ) -> ExecutionResult {
        let mut config = config();
        config.disable_nonce_check = true;
        config.disable_eip3607 = true;
        let kind = call.target.map_or(TxKind::Create, TxKind::Call);
        let env = TxEnv { kind, ..free(from, call.data.clone()) };
        execute(*self, config, block_env(number, time_secs, 0), env)
            .unwrap_or_else(|words| panic!("a free call was refused: {words}"))
            .result
    }

    pub(super) fn channel(&self, id: ChannelId) -> Option<ChannelFacts> {
        let state = self.read(base().contract, &Channels::channelCall::new((id.0,)));
        facts_of(&state).unwrap_or_else(|reason| panic!("channel {id}: {reason}"))
    }

    pub(super) fn tokens(&self, account: Address) -> u128 {
        self.read(base().token, &TestToken::balanceOfCall { account }).saturating_to()
    }

    pub(super) fn deposit(&self, payer: Address) -> u128 {
        let (token, contract) = (base().token, base().contract);
        self.read(contract, &Channels::depositOfCall::new((payer, token))).saturating_to()
    }

    pub(super) fn claimable(&self, payee: Address) -> u128 {
        let (token, contract) = (base().token, base().contract);
        self.read(contract, &Channels::claimableOfCall::new((payee, token))).saturating_to()
    }

    pub(super) fn funds(&self, owner: Address) -> Funds {
        let amount = |units| Amount::new(units).unwrap_or(Amount::MAX);
        Funds {
            native_wei: self.account(owner).balance.saturating_to(),
            wallet: self.tokens(owner),
            deposit: amount(self.deposit(owner)),
            claimable: amount(self.claimable(owner)),
        }
    }
}

/// The rules (Osaka), whose tables are laid out once.
pub(super) fn config() -> CfgEnv {
    static CONFIG: OnceLock<CfgEnv> = OnceLock::new();
    CONFIG.get_or_init(|| CfgEnv::new_with_spec(SpecId::OSAKA).with_chain_id(CHAIN_ID)).clone()
}

/// Runs a transaction; the error is why it may not be in a block at all.
pub(super) fn execute(
    state: StateAt<'_>,
    config: CfgEnv,
    block: BlockEnv,
    transaction: TxEnv,
) -> Result<ResultAndState, String> {
    Context::mainnet()
        .with_db(WrapDatabaseRef(state))
        .with_cfg(config)
        .with_block(block)
        .build_mainnet()
        .transact(transaction)
        .map_err(|error: EVMError<Infallible>| error.to_string())
}

pub(super) fn block_env(number: u64, time_secs: u64, base_fee: u64) -> BlockEnv {
    BlockEnv {
        number: U256::from(number),
        timestamp: U256::from(time_secs),
        gas_limit: BLOCK_GAS,
        basefee: base_fee,
        beneficiary: BUILDER,
        prevrandao: Some(keccak256(number.to_be_bytes())),
        ..BlockEnv::default()
    }
}

impl Transaction {
    pub(super) fn env(&self) -> TxEnv {
        TxEnv {
            tx_type: 2,
            caller: self.from,
            gas_limit: self.gas,
            gas_price: self.max_fee,
            gas_priority_fee: Some(self.priority_fee),
            kind: TxKind::Call(self.to),
            data: self.data.clone(),
            nonce: self.nonce,
            chain_id: Some(CHAIN_ID),
            ..TxEnv::default()
        }
    }
}

/// A transaction that pays nothing for its gas.
fn free(caller: Address, data: Bytes) -> TxEnv {
    TxEnv {
        caller,
        data,
        gas_limit: TX_GAS_LIMIT_CAP,
        chain_id: Some(CHAIN_ID),
        ..TxEnv::default()
    }
}
