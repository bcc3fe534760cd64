// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IChannels} from "../../src/interfaces/IChannels.sol";
import {Digests} from "../../src/libraries/Digests.sol";
import {ChannelConfig, Status} from "../../src/types/Channel.sol";

/// The plain twin of `Opening`: what opening means, written for reading. It has storage of its own.
contract PlainOpening {
    struct Plain {
        uint128 reserved;
        Status status;
    }

    bytes32 private _separator;
    mapping(bytes32 => Plain) public channels;
    mapping(address payer => mapping(address token => uint256)) public deposits;

    constructor(bytes32 separator) {
        _separator = separator;
    }

    function setDeposit(address payer, address token, uint256 amount) external {
        deposits[payer][token] = amount;
    }

    function open(ChannelConfig calldata config, uint128 amount) external {
        bytes32 id = Digests.channelIdOf(_separator, config);
        if (msg.sender != config.payer) revert IChannels.SenderNotPayer(msg.sender, config.payer);
        if (amount == 0) revert IChannels.AmountZero();
        if (amount > type(uint104).max) revert IChannels.AmountTooLarge(amount);
        if (config.token == address(0)) revert IChannels.TokenInvalid(config.token);
        if (config.payee == address(0)) revert IChannels.RecipientInvalid(config.payee);
        if (config.withdrawDelay < 15 minutes || config.withdrawDelay > 30 days) {
            revert IChannels.WithdrawDelayInvalid(config.withdrawDelay);
        }
        if (channels[id].status != Status.None) revert IChannels.ChannelExists(id);
        uint256 available = deposits[config.payer][config.token];
        if (available < amount) {
            revert IChannels.DepositTooSmall(config.payer, config.token, available, amount);
        }
        deposits[config.payer][config.token] = available - amount;
        channels[id] = Plain(amount, Status.Open);
        emit IChannels.Opened(
            id,
            config.payer,
            config.payee,
            config.payerAuthorizer,
            config.payeeAuthorizer,
            config.token,
            config.withdrawDelay,
            config.salt,
            amount
        );
    }
}
