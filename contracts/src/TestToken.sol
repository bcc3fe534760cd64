// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

/// @title Sparewire Test Dollar
/// @notice A faucet token for test networks: ANYBODY MAY MINT ANY AMOUNT, so it is worth nothing anywhere. It speaks
/// what real dollars on chain speak: EIP-2612 permits and EIP-3009 authorizations, with 6 decimals.
contract TestToken is ERC20Permit, ERC3009 {
    constructor() ERC20("Sparewire Test Dollar", "tUSD") ERC20Permit("Sparewire Test Dollar") {}

    /// @notice Makes `amount` out of nothing for `to`. Open to all.
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    /// @inheritdoc ERC20
    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
