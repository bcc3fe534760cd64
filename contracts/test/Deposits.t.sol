// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

import {IChannels} from "../src/interfaces/IChannels.sol";
import {ChannelConfig} from "../src/types/Channel.sol";
import {ChannelsTest, Person} from "./support/ChannelsTest.sol";
import {FeeToken, IdleToken, SilentToken} from "./support/Tokens.sol";
import {bound, vm} from "./support/Vm.sol";

contract DepositsTest is ChannelsTest {
    bytes32 private constant PERMIT =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    bytes32 private constant RECEIVE = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    function test_deposit_creditsTheSender(uint128 amount) public {
        amount = uint128(bound(amount, 1, type(uint128).max));
        token.mint(stranger.account, amount);
        vm.startPrank(stranger.account);
        token.approve(address(channels), amount);
        vm.expectEmit(address(channels));
        emit IChannels.Deposited(stranger.account, address(token), stranger.account, amount);
        channels.deposit(address(token), amount);
        vm.assertEq(deposits(stranger.account), amount);
        vm.assertEq(token.balanceOf(stranger.account), 0);
    }

    function test_deposit_addsUp() public {
        token.mint(payer.account, UNIT);
        uint256 before = deposits(payer.account);
        vm.prank(payer.account);
        channels.deposit(address(token), UNIT);
        vm.assertEq(deposits(payer.account), before + UNIT);
    }

    function test_deposit_revertsIfAmountIsZero() public {
        vm.expectRevert(IChannels.AmountZero.selector);
        channels.deposit(address(token), 0);
    }

    function test_deposit_revertsIfTokenRefuses() public {
        vm.prank(stranger.account);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(channels), 0, UNIT)
        );
        channels.deposit(address(token), UNIT);
    }

    function test_deposit_revertsIfNothingArrives() public {
        IdleToken idle = new IdleToken();
        vm.expectRevert(abi.encodeWithSelector(IChannels.NothingReceived.selector, address(idle)));
        channels.deposit(address(idle), UNIT);
    }

    function test_deposit_revertsIfTokenIsNoContract() public {
        vm.expectRevert();
        channels.deposit(stranger.account, UNIT);
    }

    function test_deposit_creditsWhatArrivesIfTokenTakesFee() public {
        FeeToken dear = new FeeToken();
        dear.mint(payer.account, UNIT);
        vm.startPrank(payer.account);
        dear.approve(address(channels), UNIT);
        channels.deposit(address(dear), UNIT);
        vm.stopPrank();
        vm.assertEq(channels.depositOf(payer.account, address(dear)), UNIT - dear.fee(UNIT));
        vm.assertEq(dear.balanceOf(address(channels)), UNIT - dear.fee(UNIT));
    }

    function test_deposit_takesTokensThatReturnNothing() public {
        SilentToken silent = new SilentToken();
        silent.mint(payer.account, UNIT);
        vm.startPrank(payer.account);
        channels.deposit(address(silent), UNIT);
        channels.withdraw(address(silent), UNIT, stranger.account);
        vm.assertEq(silent.balanceOf(stranger.account), UNIT);
    }

    function test_depositFor_creditsThePayer() public {
        token.mint(stranger.account, UNIT);
        uint256 before = deposits(payer.account);
        vm.startPrank(stranger.account);
        token.approve(address(channels), UNIT);
        vm.expectEmit(address(channels));
        emit IChannels.Deposited(payer.account, address(token), stranger.account, UNIT);
        channels.depositFor(payer.account, address(token), UNIT);
        vm.assertEq(deposits(payer.account), before + UNIT);
        vm.assertEq(deposits(stranger.account), 0);
    }

    function test_depositFor_revertsIfPayerIsNobody() public {
        vm.expectRevert(abi.encodeWithSelector(IChannels.RecipientInvalid.selector, address(0)));
        channels.depositFor(address(0), address(token), UNIT);
        vm.expectRevert(abi.encodeWithSelector(IChannels.RecipientInvalid.selector, address(channels)));
        channels.depositFor(address(channels), address(token), UNIT);
    }

    function test_depositFor_revertsIfAmountIsZero() public {
        vm.expectRevert(IChannels.AmountZero.selector);
        channels.depositFor(payer.account, address(token), 0);
    }

    function test_depositWithPermit_needsNoAllowance() public {
        (uint256 deadline, uint8 v, bytes32 r, bytes32 s) = _permit(UNIT);
        vm.prank(stranger.account);
        channels.depositWithPermit(address(token), UNIT, deadline, v, r, s);
        vm.assertEq(deposits(stranger.account), UNIT);
    }

    function test_depositWithPermit_worksIfPermitWasSentAhead() public {
        (uint256 deadline, uint8 v, bytes32 r, bytes32 s) = _permit(UNIT);
        token.permit(stranger.account, address(channels), UNIT, deadline, v, r, s);
        vm.prank(stranger.account);
        channels.depositWithPermit(address(token), UNIT, deadline, v, r, s);
        vm.assertEq(deposits(stranger.account), UNIT);
    }

    function test_depositWithPermit_revertsIfPermitFailsAndNothingIsAllowed() public {
        (uint256 deadline, uint8 v, bytes32 r, bytes32 s) = _permit(UNIT - 1);
        vm.prank(stranger.account);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(channels), 0, UNIT)
        );
        channels.depositWithPermit(address(token), UNIT, deadline, v, r, s);
    }

    function test_depositWithPermit_revertsIfAmountIsZero() public {
        vm.expectRevert(IChannels.AmountZero.selector);
        channels.depositWithPermit(address(token), 0, 0, 0, 0, 0);
    }

    function test_depositWithAuthorization_creditsThePayerWhoeverSends(address sender, bool compact) public {
        vm.assume(sender != address(channels));
        bytes memory signed = _authorization(UNIT, 0, type(uint256).max, compact);
        vm.expectEmit(address(channels));
        emit IChannels.Deposited(stranger.account, address(token), stranger.account, UNIT);
        vm.prank(sender);
        channels.depositWithAuthorization(
            stranger.account, address(token), UNIT, 0, type(uint256).max, bytes32("nonce"), signed
        );
        vm.assertEq(deposits(stranger.account), UNIT);
    }

    function test_depositWithAuthorization_cannotBeRedirected() public {
        bytes memory signed = _authorization(UNIT, 0, type(uint256).max, false);
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        channels.depositWithAuthorization(
            payer.account, address(token), UNIT, 0, type(uint256).max, bytes32("nonce"), signed
        );
        // Nor taken to the token itself, where it would be credited to nobody.
        (uint8 v, bytes32 r, bytes32 s) = (uint8(signed[64]), bytes32(0), bytes32(0));
        assembly ("memory-safe") {
            r := mload(add(signed, 0x20))
            s := mload(add(signed, 0x40))
        }
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(channels)));
        token.receiveWithAuthorization(
            stranger.account, address(channels), UNIT, 0, type(uint256).max, bytes32("nonce"), v, r, s
        );
    }

    function test_depositWithAuthorization_revertsTheSecondTime() public {
        bytes memory signed = _authorization(UNIT, 0, type(uint256).max, false);
        token.mint(stranger.account, UNIT);
        channels.depositWithAuthorization(
            stranger.account, address(token), UNIT, 0, type(uint256).max, bytes32("nonce"), signed
        );
        vm.expectRevert(
            abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, stranger.account, bytes32("nonce"))
        );
        channels.depositWithAuthorization(
            stranger.account, address(token), UNIT, 0, type(uint256).max, bytes32("nonce"), signed
        );
    }

    function test_depositWithAuthorization_revertsIfSignatureHasAnotherLength() public {
        vm.expectRevert(abi.encodeWithSelector(IChannels.SignatureLengthInvalid.selector, 63));
        channels.depositWithAuthorization(
            stranger.account, address(token), UNIT, 0, type(uint256).max, bytes32("nonce"), new bytes(63)
        );
    }

    function test_depositWithAuthorization_revertsIfAmountIsZero() public {
        vm.expectRevert(IChannels.AmountZero.selector);
        channels.depositWithAuthorization(stranger.account, address(token), 0, 0, 0, 0, new bytes(65));
    }

    function test_depositWithAuthorization_revertsIfNothingArrives() public {
        IdleToken idle = new IdleToken();
        vm.expectRevert(abi.encodeWithSelector(IChannels.NothingReceived.selector, address(idle)));
        channels.depositWithAuthorization(stranger.account, address(idle), UNIT, 0, 0, 0, new bytes(65));
    }

    function test_withdraw_sendsWhereTold(uint128 amount) public {
        uint256 before = deposits(payer.account);
        amount = uint128(bound(amount, 1, before));
        vm.expectEmit(address(channels));
        emit IChannels.Withdrawn(payer.account, address(token), stranger.account, amount);
        vm.prank(payer.account);
        channels.withdraw(address(token), amount, stranger.account);
        vm.assertEq(deposits(payer.account), before - amount);
        vm.assertEq(token.balanceOf(stranger.account), amount);
    }

    function test_withdraw_revertsIfDepositIsTooSmall() public {
        uint256 available = deposits(payer.account);
        vm.prank(payer.account);
        vm.expectRevert(
            abi.encodeWithSelector(
                IChannels.DepositTooSmall.selector, payer.account, address(token), available, available + 1
            )
        );
        channels.withdraw(address(token), uint128(available + 1), payer.account);
    }

    function test_withdraw_cannotTouchWhatChannelsHold() public {
        uint128 all = uint128(deposits(payer.account));
        opened(all - 1);
        vm.prank(payer.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.DepositTooSmall.selector, payer.account, address(token), 1, 2));
        channels.withdraw(address(token), 2, payer.account);
    }

    function test_withdraw_revertsIfAmountIsZero() public {
        vm.expectRevert(IChannels.AmountZero.selector);
        channels.withdraw(address(token), 0, payer.account);
    }

    function test_withdraw_revertsIfRecipientIsNobody() public {
        vm.startPrank(payer.account);
        vm.expectRevert(abi.encodeWithSelector(IChannels.RecipientInvalid.selector, address(0)));
        channels.withdraw(address(token), 1, address(0));
        vm.expectRevert(abi.encodeWithSelector(IChannels.RecipientInvalid.selector, address(channels)));
        channels.withdraw(address(token), 1, address(channels));
    }

    function test_balances_areWhereTheirTypesSay(address holder, address asset) public view {
        // Balance.sol's places, written plainly. Nothing else is there, so reading them is enough.
        bytes32 deposit = keccak256(abi.encode(payer.account, token));
        vm.assertEq(uint256(vm.load(address(channels), deposit)), deposits(payer.account));
        bytes32 place = keccak256(abi.encode(holder, asset));
        bytes32 earned = keccak256(abi.encode(holder, uint256(uint160(asset)) + (1 << 160)));
        vm.assertEq(uint256(vm.load(address(channels), place)), channels.depositOf(holder, asset));
        vm.assertEq(uint256(vm.load(address(channels), earned)), channels.claimableOf(holder, asset));
    }

    function test_claimable_isWhereItsTypeSays() public {
        (ChannelConfig memory config,) = opened(UNIT);
        claim(config, UNIT);
        bytes32 earned = keccak256(abi.encode(payee.account, uint256(uint160(address(token))) + (1 << 160)));
        vm.assertEq(uint256(vm.load(address(channels), earned)), UNIT);
    }

    function _permit(uint128 value) private returns (uint256 deadline, uint8 v, bytes32 r, bytes32 s) {
        token.mint(stranger.account, UNIT);
        deadline = vm.getBlockTimestamp() + 1 hours;
        bytes32 hash = keccak256(abi.encode(PERMIT, stranger.account, address(channels), value, 0, deadline));
        (v, r, s) = vm.sign(stranger.key, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), hash)));
    }

    function _authorization(uint128 value, uint256 validAfter, uint256 validBefore, bool compact)
        private
        returns (bytes memory)
    {
        token.mint(stranger.account, value);
        bytes32 hash = keccak256(
            abi.encode(RECEIVE, stranger.account, address(channels), value, validAfter, validBefore, bytes32("nonce"))
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), hash));
        return compact ? compactSignature(stranger.key, digest) : signature(stranger.key, digest);
    }
}
