//! What accounts hold: the state in memory, and the changes that lead from block to block.

use std::collections::{BTreeMap, HashMap};

use alloy_primitives::{Address, B256, Bytes, U256};
use revm::{
    DatabaseRef,
    primitives::KECCAK_EMPTY,
    state::{AccountInfo, Bytecode, EvmState},
};

use super::store::{Store, StoreError};

/// An account without its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountState {
    /// Native currency, in wei.
    pub balance: U256,
    /// How many transactions it has sent.
    pub nonce: u64,
    /// keccak256 of its code.
    pub code_hash: B256,
}

impl Default for AccountState {
    fn default() -> Self {
        Self { balance: U256::ZERO, nonce: 0, code_hash: KECCAK_EMPTY }
    }
}

/// New values of what one block touches; the same form holds the old ones, to take a block back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// `None` where the account is gone.
    pub accounts: BTreeMap<Address, Option<AccountState>>,
    /// Zero where the slot is gone.
    pub slots: BTreeMap<(Address, U256), U256>,
    /// Code is only ever added: it is found by its hash.
    pub code: BTreeMap<B256, Bytes>,
}

impl Changes {
    /// Picks out what a transaction changed.
    pub fn from_revm(state: EvmState) -> Self {
        let mut changes = Self::default();
        for (address, account) in state {
            if !account.is_touched() {
                continue;
            }
            // Since EIP-6780 only an account created in the same transaction can vanish, so none
            // of its slots was ever stored; EIP-161 takes touched empty accounts away.
            if account.is_selfdestructed() || account.is_empty() {
                changes.accounts.insert(address, None);
                continue;
            }
            let info = &account.info;
            let state = AccountState {
                balance: info.balance,
                nonce: info.nonce,
                code_hash: info.code_hash,
            };
            changes.accounts.insert(address, Some(state));
            if let Some(code) = info.code.as_ref().filter(|_| info.code_hash != KECCAK_EMPTY) {
                changes.code.insert(info.code_hash, code.original_bytes());
            }
            for (slot, value) in account.storage {
                if value.is_changed() {
                    changes.slots.insert((address, slot), value.present_value);
                }
            }
        }
        changes
    }

    /// Accounts and slots in bytes: the undo record, and what the header's state root commits to.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.accounts.len() * 93 + self.slots.len() * 84);
        out.extend_from_slice(&(self.accounts.len() as u32).to_be_bytes());
        for (address, account) in &self.accounts {
            out.extend_from_slice(address.as_slice());
            out.push(u8::from(account.is_some()));
            let account = account.unwrap_or_default();
            out.extend_from_slice(&account.balance.to_be_bytes::<32>());
            out.extend_from_slice(&account.nonce.to_be_bytes());
            out.extend_from_slice(account.code_hash.as_slice());
        }
        out.extend_from_slice(&(self.slots.len() as u32).to_be_bytes());
        for ((address, slot), value) in &self.slots {
            out.extend_from_slice(address.as_slice());
            out.extend_from_slice(&slot.to_be_bytes::<32>());
            out.extend_from_slice(&value.to_be_bytes::<32>());
        }
        out
    }

    /// Reads [`Changes::encode`] back; `None` where the bytes are no such thing.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut changes = Self::default();
        let input = &mut bytes;
        for _ in 0..u32::from_be_bytes(take(input)?) {
            let address = Address::from(take::<20>(input)?);
            let [present] = take::<1>(input)?;
            let account = AccountState {
                balance: U256::from_be_bytes(take::<32>(input)?),
                nonce: u64::from_be_bytes(take(input)?),
                code_hash: B256::from(take::<32>(input)?),
            };
            changes.accounts.insert(address, (present == 1).then_some(account));
        }
        for _ in 0..u32::from_be_bytes(take(input)?) {
            let address = Address::from(take::<20>(input)?);
            let slot = U256::from_be_bytes(take::<32>(input)?);
            changes.slots.insert((address, slot), U256::from_be_bytes(take::<32>(input)?));
        }
        input.is_empty().then_some(changes)
    }

    /// Adds what an older block's undo record says, which counts for more than a newer one's.
    pub(crate) fn overlay(&mut self, older: Self) {
        self.accounts.extend(older.accounts);
        self.slots.extend(older.slots);
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

/// All accounts at the newest block. About 200 bytes an account and 130 a slot, so that a million
/// channels take about as much memory as a browser tab.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Accounts that exist.
    pub accounts: HashMap<Address, AccountState>,
    /// Slots that are not zero.
    pub slots: HashMap<(Address, U256), U256>,
    /// Code by its hash.
    pub code: HashMap<B256, Bytecode>,
}

impl World {
    /// The values that `changes` would overwrite.
    pub fn undo_of(&self, changes: &Changes) -> Changes {
        let accounts = changes.accounts.keys().map(|key| (*key, self.accounts.get(key).copied()));
        let slots = changes.slots.keys().map(|key| (*key, self.slot(key.0, key.1)));
        Changes { accounts: accounts.collect(), slots: slots.collect(), code: BTreeMap::new() }
    }

    /// Makes `changes` count.
    pub fn apply(&mut self, changes: &Changes) {
        for (address, account) in &changes.accounts {
            match account {
                Some(account) => self.accounts.insert(*address, *account),
                None => self.accounts.remove(address),
            };
        }
        for (key, value) in &changes.slots {
            match value.is_zero() {
                true => self.slots.remove(key),
                false => self.slots.insert(*key, *value),
            };
        }
        for (hash, code) in &changes.code {
            // It comes along with every call; it is looked through once.
            if !self.code.contains_key(hash)
                && let Ok(code) = Bytecode::new_raw_checked(code.clone())
            {
                self.code.insert(*hash, code);
            }
        }
    }

    /// The value of a slot; zero where nothing is.
    pub fn slot(&self, address: Address, slot: U256) -> U256 {
        self.slots.get(&(address, slot)).copied().unwrap_or_default()
    }
}

/// The state at one block, as the EVM reads it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) world: &'a World,
    /// Values that newer blocks overwrote; empty at the newest block.
    pub(crate) overlay: Option<&'a Changes>,
    pub(crate) store: &'a Store,
}

impl View<'_> {
    pub(crate) fn account(&self, address: Address) -> Option<AccountState> {
        match self.overlay.and_then(|overlay| overlay.accounts.get(&address)) {
            Some(account) => *account,
            None => self.world.accounts.get(&address).copied(),
        }
    }

    pub(crate) fn slot(&self, address: Address, slot: U256) -> U256 {
        match self.overlay.and_then(|overlay| overlay.slots.get(&(address, slot))) {
            Some(value) => *value,
            None => self.world.slot(address, slot),
        }
    }

    pub(crate) fn code(&self, address: Address) -> Bytes {
        self.account(address)
            .and_then(|account| self.world.code.get(&account.code_hash))
            .map(Bytecode::original_bytes)
            .unwrap_or_default()
    }
}

impl DatabaseRef for View<'_> {
    type Error = StoreError;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, StoreError> {
        Ok(self.account(address).map(|account| AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            account_id: None,
            code: None,
        }))
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, StoreError> {
        Ok(self.world.code.get(&code_hash).cloned().unwrap_or_default())
    }

    fn storage_ref(&self, address: Address, index: U256) -> Result<U256, StoreError> {
        Ok(self.slot(address, index))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, StoreError> {
        Ok(self.store.block_hash(number)?.unwrap_or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn some_changes() -> Changes {
        let mut changes = Changes::default();
        changes.accounts.insert(Address::repeat_byte(1), None);
        let account = AccountState { balance: U256::from(7), nonce: 3, ..Default::default() };
        changes.accounts.insert(Address::repeat_byte(2), Some(account));
        changes.slots.insert((Address::repeat_byte(2), U256::ONE), U256::MAX);
        changes
    }

    #[test]
    fn changes_survive_their_encoding_and_every_truncation_is_refused() {
        let bytes = some_changes().encode();
        assert_eq!(Changes::decode(&bytes).unwrap(), some_changes());
        for len in 0..bytes.len() {
            assert_eq!(Changes::decode(&bytes[..len]), None);
        }
    }

    #[test]
    fn undo_takes_a_change_back() {
        let mut world = World::default();
        let changes = some_changes();
        let undo = world.undo_of(&changes);
        world.apply(&changes);
        assert_eq!(world.slots.len(), 1);
        world.apply(&undo);
        assert!(world.accounts.is_empty() && world.slots.is_empty());
    }
}
