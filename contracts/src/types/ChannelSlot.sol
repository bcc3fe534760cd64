// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ChannelState, Status} from "./Channel.sol";

/// A channel's whole state in one storage slot. From the low bits: reserved (104), claimed (104), closeAt (40), status (8).
type ChannelSlot is uint256;

using {
    status,
    isNone,
    isOpen,
    isClosed,
    reserved,
    claimed,
    closeAt,
    withReserved,
    withClaimed,
    withCloseAt,
    withClosed,
    unpack
} for ChannelSlot global;

/// A channel in storage.
struct Channel {
    ChannelSlot slot;
}

/// Where the channel is: its id is the place. An id is the hash of 66 bytes, the places of balances are hashes of 64 and
/// of 96 (`Balance.sol`), so no two of all these meet unless keccak256 collides, which is what every mapping rests on.
function channelAt(bytes32 id) pure returns (Channel storage found) {
    assembly ("memory-safe") {
        found.slot := id
    }
}

uint256 constant CLAIMED_OFFSET = 104;
uint256 constant CLOSE_AT_OFFSET = 208;
uint256 constant STATUS_OFFSET = 248;
uint256 constant AMOUNT_MAX = type(uint104).max;

function status(ChannelSlot slot) pure returns (Status) {
    return Status(ChannelSlot.unwrap(slot) >> STATUS_OFFSET);
}

/// Never opened. A slot that was ever opened is not zero, for its status is not.
function isNone(ChannelSlot slot) pure returns (bool) {
    return ChannelSlot.unwrap(slot) == 0;
}

function isOpen(ChannelSlot slot) pure returns (bool) {
    return ChannelSlot.unwrap(slot) >> STATUS_OFFSET == uint256(Status.Open);
}

function isClosed(ChannelSlot slot) pure returns (bool) {
    return ChannelSlot.unwrap(slot) >> STATUS_OFFSET == uint256(Status.Closed);
}

function reserved(ChannelSlot slot) pure returns (uint256) {
    return ChannelSlot.unwrap(slot) & AMOUNT_MAX;
}

function claimed(ChannelSlot slot) pure returns (uint256) {
    return (ChannelSlot.unwrap(slot) >> CLAIMED_OFFSET) & AMOUNT_MAX;
}

function closeAt(ChannelSlot slot) pure returns (uint40) {
    return uint40(ChannelSlot.unwrap(slot) >> CLOSE_AT_OFFSET);
}

/// The caller has checked that `amount` is at most AMOUNT_MAX.
function withReserved(ChannelSlot slot, uint256 amount) pure returns (ChannelSlot) {
    return ChannelSlot.wrap((ChannelSlot.unwrap(slot) & ~AMOUNT_MAX) | amount);
}

/// The caller has checked that `amount` is at most AMOUNT_MAX.
function withClaimed(ChannelSlot slot, uint256 amount) pure returns (ChannelSlot) {
    return ChannelSlot.wrap((ChannelSlot.unwrap(slot) & ~(AMOUNT_MAX << CLAIMED_OFFSET)) | (amount << CLAIMED_OFFSET));
}

/// Only from an open slot: there closeAt is zero.
function withCloseAt(ChannelSlot slot, uint40 time) pure returns (ChannelSlot) {
    uint256 amounts = ChannelSlot.unwrap(slot) & ((1 << CLOSE_AT_OFFSET) - 1);
    return ChannelSlot.wrap(amounts | (uint256(time) << CLOSE_AT_OFFSET) | (uint256(Status.Closing) << STATUS_OFFSET));
}

/// The tombstone: amounts and time stay readable, and the id can never be opened again.
function withClosed(ChannelSlot slot) pure returns (ChannelSlot) {
    return ChannelSlot.wrap(ChannelSlot.unwrap(slot) | (uint256(Status.Closed) << STATUS_OFFSET));
}

function unpack(ChannelSlot slot) pure returns (ChannelState memory) {
    return ChannelState({
        reserved: uint128(reserved(slot)), claimed: uint128(claimed(slot)), closeAt: closeAt(slot), status: status(slot)
    });
}
