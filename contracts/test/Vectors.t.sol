// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Channels} from "../src/Channels.sol";
import {TestToken} from "../src/TestToken.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {ChannelConfig, Claim, Status} from "../src/types/Channel.sol";
import {Signatures} from "../src/libraries/Signatures.sol";
import {vm} from "./support/Vm.sol";

/// Holds the contract to what viem makes of the same messages: vectors/channels.json, described in vectors/README.md.
contract VectorsTest {
    string private _json = vm.readFile("../vectors/channels.json");

    function test_domains_haveTheirSeparators() public {
        uint256 count;
        for (; _has(".domains", count); ++count) {
            Channels deployed = _deploy(count);
            vm.assertEq(deployed.domainSeparator(), _bytes32(_at(".domains", count), ".separator"));
        }
        vm.assertGe(count, 4, "domains");
    }

    function test_channels_haveTheirIds() public {
        uint256 count;
        for (; _has(".channels", count); ++count) {
            string memory key = _at(".channels", count);
            ChannelConfig memory config = _config(key);
            Channels deployed = _deploy(_uint(key, ".domain"));
            vm.assertEq(deployed.channelId(config), _bytes32(key, ".channelId"));
            vm.assertEq(Digests.channelIdOf(deployed.domainSeparator(), config), _bytes32(key, ".channelId"));
        }
        vm.assertGe(count, 8, "channels");
    }

    function test_vouchers_haveTheirDigestsAndSigners() public {
        uint256 count;
        for (; _has(".vouchers", count); ++count) {
            string memory key = _at(".vouchers", count);
            Channels deployed = _deploy(_uint(key, ".domain"));
            _signed(key, deployed.voucherDigest(_bytes32(key, ".channelId"), uint128(_uint(key, ".amount"))));
        }
        vm.assertGe(count, 6, "vouchers");
    }

    function test_cooperativeCloses_haveTheirDigestsAndSigners() public {
        uint256 count;
        for (; _has(".cooperativeCloses", count); ++count) {
            string memory key = _at(".cooperativeCloses", count);
            Channels deployed = _deploy(_uint(key, ".domain"));
            _signed(key, deployed.cooperativeCloseDigest(_bytes32(key, ".channelId"), uint128(_uint(key, ".amount"))));
        }
        vm.assertGe(count, 3, "closes");
    }

    function test_receipts_haveTheirDigestsAndSigners() public {
        uint256 count;
        for (; _has(".receipts", count); ++count) {
            string memory key = _at(".receipts", count);
            Digests.Receipt memory message = Digests.Receipt({
                channelId: _bytes32(key, ".channelId"),
                sessionId: _bytes32(key, ".sessionId"),
                sequence: uint64(_uint(key, ".sequence")),
                up: uint64(_uint(key, ".up")),
                down: uint64(_uint(key, ".down")),
                amount: uint128(_uint(key, ".amount")),
                previous: _bytes32(key, ".previous"),
                time: uint64(_uint(key, ".time"))
            });
            _signed(key, Digests.receipt(_deploy(_uint(key, ".domain")).domainSeparator(), message));
        }
        vm.assertGe(count, 4, "receipts");
    }

    function test_delegations_haveTheirDigestsAndSigners() public {
        uint256 count;
        for (; _has(".delegations", count); ++count) {
            string memory key = _at(".delegations", count);
            Digests.Delegation memory message = Digests.Delegation({
                wallet: vm.parseJsonAddress(_json, string.concat(key, ".wallet")),
                device: _bytes32(key, ".device"),
                authorizer: vm.parseJsonAddress(_json, string.concat(key, ".authorizer")),
                expiry: uint64(_uint(key, ".expiry"))
            });
            _signed(key, Digests.delegation(_deploy(_uint(key, ".domain")).domainSeparator(), message));
        }
        vm.assertGe(count, 2, "delegations");
    }

    function test_packedClaim_claims() public {
        Channels deployed = _deploy(_uint(".packedClaim", ".domain"));
        bytes memory data = vm.parseJsonBytes(_json, ".packedClaim.data");
        uint256 count;
        uint256 sum;
        address payee;
        address token;
        for (; vm.keyExistsJson(_json, _at(".packedClaim.vouchers", count)); ++count) {
            string memory key = _at(".vouchers", vm.parseJsonUint(_json, _at(".packedClaim.vouchers", count)));
            ChannelConfig memory config = _configOf(_bytes32(key, ".channelId"));
            uint128 amount = uint128(_uint(key, ".amount"));
            (payee, token, sum) = (config.payee, config.token, sum + amount);
            if (count == 0) vm.etch(token, address(new TestToken()).code);
            TestToken(token).mint(config.payer, amount);
            vm.startPrank(config.payer);
            TestToken(token).approve(address(deployed), amount);
            deployed.deposit(token, amount);
            deployed.open(config, amount);
            vm.stopPrank();
        }
        vm.assertEq(count, 3);
        deployed.claimPackedAndSweep(data);
        vm.assertEq(TestToken(token).balanceOf(payee), sum);
        vm.assertEq(TestToken(token).balanceOf(address(deployed)), 0);
    }

    /// The contract, made by its own constructor at the vector's address on the vector's chain.
    function _deploy(uint256 domain) private returns (Channels) {
        string memory key = _at(".domains", domain);
        address target = vm.parseJsonAddress(_json, string.concat(key, ".verifyingContract"));
        vm.chainId(_uint(key, ".chainId"));
        vm.etch(target, type(Channels).creationCode);
        (bool done, bytes memory code) = target.call("");
        vm.assertTrue(done);
        vm.etch(target, code);
        return Channels(target);
    }

    function _configOf(bytes32 id) private view returns (ChannelConfig memory) {
        for (uint256 i = 0;; ++i) {
            if (_bytes32(_at(".channels", i), ".channelId") == id) return _config(_at(".channels", i));
        }
        revert();
    }

    function _config(string memory key) private view returns (ChannelConfig memory) {
        return ChannelConfig({
            payer: vm.parseJsonAddress(_json, string.concat(key, ".payer")),
            payerAuthorizer: vm.parseJsonAddress(_json, string.concat(key, ".payerAuthorizer")),
            payee: vm.parseJsonAddress(_json, string.concat(key, ".payee")),
            payeeAuthorizer: vm.parseJsonAddress(_json, string.concat(key, ".payeeAuthorizer")),
            token: vm.parseJsonAddress(_json, string.concat(key, ".token")),
            withdrawDelay: uint40(_uint(key, ".withdrawDelay")),
            salt: _bytes32(key, ".salt")
        });
    }

    function _signed(string memory key, bytes32 digest) private view {
        vm.assertEq(digest, _bytes32(key, ".digest"));
        address signer = vm.parseJsonAddress(_json, string.concat(key, ".signer"));
        vm.assertEq(this.recover(digest, vm.parseJsonBytes(_json, string.concat(key, ".signature"))), signer);
        vm.assertEq(this.recover(digest, vm.parseJsonBytes(_json, string.concat(key, ".compact"))), signer);
    }

    function recover(bytes32 digest, bytes calldata signature) external pure returns (address) {
        return Signatures.recover(digest, signature);
    }

    function _has(string memory list, uint256 i) private view returns (bool) {
        return vm.keyExistsJson(_json, _at(list, i));
    }

    function _at(string memory list, uint256 i) private pure returns (string memory) {
        return string.concat(list, "[", vm.toString(i), "]");
    }

    function _uint(string memory key, string memory member) private view returns (uint256) {
        return vm.parseJsonUint(_json, string.concat(key, member));
    }

    function _bytes32(string memory key, string memory member) private view returns (bytes32) {
        return vm.parseJsonBytes32(_json, string.concat(key, member));
    }
}
