// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../../src/Channels.sol";
import {ChannelState, Status} from "../../src/types/Channel.sol";
import {vm} from "../support/Vm.sol";
import {Campaign} from "./Tally.sol";
import {World} from "./World.sol";

/// The rules C1 to C7 and C11 over everything that payers, payees and strangers do in any order (`World`).
/// After each run its successes go to `cache/campaign`; `bin/campaign.mjs` fails if over the whole campaign something never
/// happened, for then these invariants would have said nothing about it.
/// forge-config: default.isolate = true
contract InvariantsTest is Campaign {
    World private world;
    Channels private channels;

    function setUp() public {
        world = new World();
        channels = world.channels();
    }

    function _target() internal view override returns (address, bytes4[] memory selectors) {
        selectors = new bytes4[](18);
        selectors[0] = World.deposit.selector;
        selectors[1] = World.depositFor.selector;
        selectors[2] = World.depositWithPermit.selector;
        selectors[3] = World.depositWithAuthorization.selector;
        selectors[4] = World.withdraw.selector;
        selectors[5] = World.open.selector;
        selectors[6] = World.openBatch.selector;
        selectors[7] = World.topUp.selector;
        selectors[8] = World.claim.selector;
        selectors[9] = World.claimPacked.selector;
        selectors[10] = World.claimPackedAndSweep.selector;
        selectors[11] = World.sweep.selector;
        selectors[12] = World.multicall.selector;
        selectors[13] = World.closeCooperatively.selector;
        selectors[14] = World.startClose.selector;
        selectors[15] = World.finishClose.selector;
        selectors[16] = World.pass.selector;
        selectors[17] = World.cheat.selector;
        return (address(world), selectors);
    }

    /// C1, C2: the contract holds what it owes, and what came in and did not go out.
    function invariant_C1_C2_heldCoversOwedAndEqualsInLessOut() public view {
        _held();
    }

    /// C3, C4, C5: channel by channel the contract says what the ledger says, so the credit is that of the newest voucher
    /// claimed in time, from any sender (C7), never more than was signed, and never after the close.
    function invariant_C3_C4_C5_C7_eachChannelPaysWhatWasSignedAndRefundsTheRestOnce() public view {
        _channels();
    }

    /// Deposits and earnings are each holder's own.
    function invariant_C3_C7_balancesAreThoseOfTheLedger() public view {
        _balances();
    }

    /// C11: no claim and no close takes more gas than its bound, whatever came before.
    function invariant_C11_gasOfClaimsAndClosesIsBounded() public view {
        world.requireGasIsBounded();
    }

    /// C6: whatever was done, all can leave without anybody's consent, and then the contract is empty.
    function afterInvariant() public override {
        super.afterInvariant();
        world.everybodyLeaves();
        for (uint256 t = 0; t < 2; ++t) {
            address token = address(world.tokens(t));
            vm.assertEq(world.tokens(t).balanceOf(address(channels)), 0, "something is left");
            vm.assertEq(world.paidIn(token), world.paidOut(token), "in is not out");
        }
        _held();
        _channels();
        _balances();
    }

    function _held() private view {
        for (uint256 t = 0; t < 2; ++t) {
            address token = address(world.tokens(t));
            uint256 held = world.tokens(t).balanceOf(address(channels));
            vm.assertGe(held, world.owed(token), "C1: held < owed");
            vm.assertEq(held + world.paidOut(token), world.paidIn(token), "C2: in is not out + held");
        }
    }

    function _channels() private view {
        World.Entry[] memory entries = world.entries();
        for (uint256 i = 0; i < entries.length; ++i) {
            World.Entry memory entry = entries[i];
            ChannelState memory state = channels.channel(entry.id);
            vm.assertEq(state.reserved, entry.put, "C3: reserved");
            vm.assertEq(state.claimed, entry.credited, "C3: claimed is not credited");
            vm.assertEq(state.closeAt, entry.closeAt, "closeAt");
            vm.assertEq(uint256(state.status), uint256(entry.status), "status");
            vm.assertLe(state.claimed, state.reserved, "C3: claimed > reserved");
            vm.assertLe(state.claimed, entry.newest, "more than the newest voucher");
            bool closed = entry.status == Status.Closed;
            vm.assertEq(entry.refunds, closed ? 1 : 0, "C3: refunds");
            vm.assertEq(entry.refunded, closed ? entry.put - entry.credited : 0, "C3: refunded");
            if (closed) vm.assertEq(state.claimed, entry.creditedAtClose, "C4: credit after close");
        }
    }

    function _balances() private view {
        for (uint256 t = 0; t < 2; ++t) {
            address token = address(world.tokens(t));
            for (uint256 p = 0; p < 3; ++p) {
                (address payer,,,) = world.payers(p);
                (address payee,,,) = world.payees(p);
                vm.assertEq(channels.depositOf(payer, token), world.deposits(payer, token), "deposit");
                vm.assertEq(channels.claimableOf(payee, token), world.claimable(payee, token), "claimable");
            }
        }
    }
}
