// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {vm} from "../support/Vm.sol";

/// What worlds have in common: a clock of their own, for forge winds its back between calls, and how often each function
/// succeeded, for `bin/campaign.mjs`.
abstract contract Tally {
    string[] public names;
    mapping(string name => uint256) public successes;

    uint256 internal _now = 1_800_000_000;

    modifier counted(string memory name) {
        vm.warp(_now);
        _;
        ++successes[name];
    }

    function tally() external view returns (string memory line) {
        for (uint256 i = 0; i < names.length; ++i) {
            line = string.concat(line, names[i], "=", vm.toString(successes[names[i]]), " ");
        }
    }

    function _pass(uint256 time) internal {
        _now += time;
        vm.warp(_now);
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}

/// One world and the functions that are called on it.
abstract contract Campaign {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function _target() internal view virtual returns (address world, bytes4[] memory selectors);

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        (targets[0],) = _target();
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        (targets[0].addr, targets[0].selectors) = _target();
    }

    function afterInvariant() public {
        (address world,) = _target();
        vm.writeLine("cache/campaign", Tally(world).tally());
    }
}
