// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

import {TestToken} from "../../src/TestToken.sol";

/// Keeps a hundredth, rounded up, of all that it transfers.
contract FeeToken is TestToken {
    function fee(uint256 amount) public pure returns (uint256) {
        return (amount + 99) / 100;
    }

    function _update(address from, address to, uint256 amount) internal override(ERC20) {
        if (from == address(0) || to == address(0)) return super._update(from, to, amount);
        super._update(from, address(0), fee(amount));
        super._update(from, to, amount - fee(amount));
    }
}

/// Says yes to every transfer and moves nothing; has a fallback that takes permits and authorizations in silence.
contract IdleToken {
    function balanceOf(address) external pure returns (uint256) {
        return 7;
    }

    fallback() external {
        assembly ("memory-safe") {
            mstore(0, 1)
            return(0, 0x20)
        }
    }
}

/// Calls back in the middle of every transfer.
contract ReentrantToken is TestToken {
    address public target;
    bytes public data;
    bool public entered;
    bytes public answer;

    function arm(address to, bytes calldata call) external {
        (target, data, entered, answer) = (to, call, false, "");
    }

    function _update(address from, address to, uint256 amount) internal override(ERC20) {
        super._update(from, to, amount);
        if (target == address(0)) return;
        (address to_, bytes memory call) = (target, data);
        target = address(0);
        (entered, answer) = to_.call(call);
    }

    /// The contract under attack may not be the caller of an attack, but the token itself may own channels.
    function approveFor(address spender, uint256 amount) external {
        _approve(address(this), spender, amount);
    }
}

/// Returns nothing from transfers, as USDT does.
contract SilentToken {
    mapping(address => uint256) public balanceOf;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function transfer(address to, uint256 amount) external {
        _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external {
        _move(from, to, amount);
    }

    function _move(address from, address to, uint256 amount) private {
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}
