// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// C11: the most gas that a transaction may take to claim or to dispute, base and calldata included, whatever came before:
/// what `Gas.t.sol` and `GasOfModules.t.sol` allow in a steady state (what it is there: `snapshots/gas.json`), and what the
/// worst state adds. Of signatures these are of 65 bytes, or as long as a claim packs them.
library GasBounds {
    /// A slot that is zero before and not after costs 22,100 where another costs 5,000 (EIP-2200, EIP-2929).
    uint256 private constant FRESH = 17_100;
    /// A wallet of code (EIP-1271) that looks up its owner and recovers a signature, as in `Wallet.sol`: cold account and slot
    /// 4,700, ecrecover 3,000, calls and copies.
    uint256 private constant WALLET = 12_000;

    // An entry of a claim; the payee may have nothing to claim before.
    uint256 internal constant CLAIM = 60_000 + FRESH + WALLET;
    uint256 internal constant CLAIM_PACKED = 50_000 + FRESH;
    /// The payee may have none of the token before.
    uint256 internal constant CLAIM_PACKED_AND_SWEEP = 70_000 + FRESH;
    /// Both sides may be wallets, and have nothing in the contract before.
    uint256 internal constant CLOSE_COOPERATIVELY = 80_000 + 2 * FRESH + 2 * WALLET;
    // Together 110,000 where the payer has a deposit.
    uint256 internal constant START_CLOSE = 45_000;
    uint256 internal constant FINISH_CLOSE = 65_000 + FRESH;

    /// A claim of a payee that has nothing to claim before.
    uint256 internal constant DEFEND = 150_000 + FRESH;
    uint256 internal constant DEFEND_TOO_LATE = 50_000;
    /// The tower may have none of the token before, and the payer no deposit.
    uint256 internal constant COLLECT = 100_000 + 2 * FRESH;

    uint256 internal constant COMMIT = 55_000;
    /// Neither the reporter nor what is burned may have been there before.
    uint256 internal constant REPORT_RECEIPTS = 180_000 + 2 * FRESH;
    /// The snapshot's way is of 20 hashes, the longest that there is of 50: calldata 512, SHA-256 and the loop.
    uint256 internal constant REPORT_BLOCK = 180_000 + 2 * FRESH + 30 * 1300;
    uint256 internal constant COMPLAIN = 160_000;
    uint256 internal constant ANSWER = 45_000;
    uint256 internal constant APPEAL = 45_000;
    /// The court's word is carried out at once, as `settle` does.
    uint256 internal constant RULE = 110_000 + FRESH;
    uint256 internal constant SETTLE = 110_000 + FRESH;

    // Not in the snapshots. A call of up to 300 bytes, approved by up to five: an approval is two fresh slots and, with the
    // last that was missing, the timelock's; each one before it is two slots and a role to read (6,300).
    uint256 internal constant APPROVE = 21_000 + 10_000 + 3 * 22_100 + 5 * 6_300 + 10_000;
    /// `RULE`, out of the timelock.
    uint256 internal constant EXECUTE_RULING = RULE + 25_000;
}
