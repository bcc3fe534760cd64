// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

import {TestToken} from "../src/TestToken.sol";
import {ChannelsTest} from "./support/ChannelsTest.sol";
import {vm} from "./support/Vm.sol";

contract TestTokenTest is ChannelsTest {
    bytes32 private constant NONCE = keccak256("a nonce is any 32 bytes");

    function test_metadata_isThatOfTestDollar() public view {
        vm.assertEq(token.name(), "Sparewire Test Dollar");
        vm.assertEq(token.symbol(), "tUSD");
        vm.assertEq(token.decimals(), 6);
    }

    function test_mint_isOpenToAll(address sender, uint128 amount) public {
        vm.prank(sender);
        token.mint(stranger.account, amount);
        vm.assertEq(token.balanceOf(stranger.account), amount);
    }

    function test_permit_allows() public {
        bytes32 typehash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        uint256 deadline = vm.getBlockTimestamp();
        (uint8 v, bytes32 r, bytes32 s) =
            _sign(keccak256(abi.encode(typehash, payer.account, stranger.account, UNIT, 0, deadline)));
        token.permit(payer.account, stranger.account, UNIT, deadline, v, r, s);
        vm.assertEq(token.allowance(payer.account, stranger.account), UNIT);
    }

    function test_transferWithAuthorization_moves() public {
        token.mint(payer.account, UNIT);
        (uint8 v, bytes32 r, bytes32 s) = _authorize("TransferWithAuthorization");
        vm.assertFalse(token.authorizationState(payer.account, NONCE));
        token.transferWithAuthorization(payer.account, payee.account, UNIT, 0, type(uint256).max, NONCE, v, r, s);
        vm.assertTrue(token.authorizationState(payer.account, NONCE));
        vm.assertEq(token.balanceOf(payee.account), UNIT);
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, payer.account, NONCE));
        token.transferWithAuthorization(payer.account, payee.account, UNIT, 0, type(uint256).max, NONCE, v, r, s);
    }

    function test_receiveWithAuthorization_movesForItsReceiverOnly() public {
        token.mint(payer.account, UNIT);
        (uint8 v, bytes32 r, bytes32 s) = _authorize("ReceiveWithAuthorization");
        vm.expectRevert();
        token.receiveWithAuthorization(payer.account, payee.account, UNIT, 0, type(uint256).max, NONCE, v, r, s);
        vm.prank(payee.account);
        token.receiveWithAuthorization(payer.account, payee.account, UNIT, 0, type(uint256).max, NONCE, v, r, s);
        vm.assertEq(token.balanceOf(payee.account), UNIT);
    }

    function test_cancelAuthorization_uses() public {
        token.mint(payer.account, UNIT);
        (uint8 v, bytes32 r, bytes32 s) = _sign(
            keccak256(
                abi.encode(keccak256("CancelAuthorization(address authorizer,bytes32 nonce)"), payer.account, NONCE)
            )
        );
        token.cancelAuthorization(payer.account, NONCE, v, r, s);
        vm.assertTrue(token.authorizationState(payer.account, NONCE));
        (v, r, s) = _authorize("TransferWithAuthorization");
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, payer.account, NONCE));
        token.transferWithAuthorization(payer.account, payee.account, UNIT, 0, type(uint256).max, NONCE, v, r, s);
    }

    function _authorize(string memory name) private view returns (uint8, bytes32, bytes32) {
        bytes32 typehash = keccak256(
            abi.encodePacked(
                name, "(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
            )
        );
        return _sign(keccak256(abi.encode(typehash, payer.account, payee.account, UNIT, 0, type(uint256).max, NONCE)));
    }

    function _sign(bytes32 hash) private view returns (uint8, bytes32, bytes32) {
        return vm.sign(payer.key, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), hash)));
    }
}
