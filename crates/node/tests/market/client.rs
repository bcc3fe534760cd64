//! A consumer written by hand, which says whatever the test wants.

use std::sync::Arc;

use bytes::Bytes;
use sparewire_core::{ByteCount, DeviceSigner, DeviceStatement, SessionId, Signed, encode};
use sparewire_node::{
    target::Target,
    transport::{Connection, Endpoint, PeerAddress, RecvStream, SendStream},
};
use sparewire_protocol::{
    Acceptance, ChannelConfig, Delegation, FRAME_LEN_MAX, Message, Reading, RefusalCode, Terms,
};

use super::{Keys, TOKEN, domain, within};

pub struct Client {
    pub keys: Arc<Keys>,
    pub connection: Connection,
    pub send: SendStream,
    pub receive: RecvStream,
    _endpoint: Endpoint,
}

impl Client {
    pub async fn connect(keys: &Arc<Keys>, provider: &PeerAddress) -> Self {
        let endpoint = keys.endpoint(None).await;
        let connection = within(10, endpoint.connect(provider)).await.unwrap();
        let (send, receive) = connection.open_bi().await.unwrap();
        Self { keys: Arc::clone(keys), connection, send, receive, _endpoint: endpoint }
    }

    /// The other end: a provider written by hand, and the consumer that comes to it.
    pub async fn provide(keys: &Arc<Keys>, endpoint: &Endpoint) -> Self {
        let incoming = within(20, endpoint.accept()).await.unwrap();
        let connection = within(10, incoming.handshake()).await.unwrap();
        let (send, receive) = within(10, connection.accept_bi()).await.unwrap();
        Self { keys: Arc::clone(keys), connection, send, receive, _endpoint: endpoint.clone() }
    }

    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        let _ = self.send.write_chunk(Bytes::copy_from_slice(bytes)).await; // it may have hung up
    }

    pub async fn say(&mut self, message: &Message) {
        self.say_bytes(&message.to_frame()).await;
    }

    /// The next message; `None` where the provider ended the stream or the connection.
    pub async fn hear(&mut self) -> Option<Message> {
        let mut length = [0; 4];
        within(15, self.receive.read_exact(&mut length)).await.ok()?;
        let length = u32::from_le_bytes(length) as usize;
        assert!(length <= FRAME_LEN_MAX);
        let mut frame = vec![0; length];
        self.receive.read_exact(&mut frame).await.ok()?;
        Message::from_frame(&frame).unwrap()
    }

    pub async fn terms(&mut self, resume: Option<SessionId>) -> Terms {
        self.say(&Message::Hello { minor: 0, domain: domain(), token: TOKEN, resume }).await;
        let Some(Message::Offer(offer)) = self.hear().await else { panic!("no offer") };
        offer.terms
    }

    /// An acceptance of a new session, honest but for what the test changes in it.
    pub fn acceptance(&self, terms: &Terms, channel: ChannelConfig, session: u8) -> Acceptance {
        Acceptance {
            session: SessionId([session; 32].into()),
            terms_hash: terms.hash(),
            channel,
            delegation: self.delegation(),
            reading: Reading::ZERO,
            up_max: ByteCount::ZERO,
            payment: None,
            receipt: None,
            pending: None,
        }
    }

    pub fn delegation(&self) -> Signed<Delegation> {
        self.keys.identity().delegation
    }

    pub async fn accept(&mut self, acceptance: Acceptance) -> Option<Message> {
        let signature = self.keys.device.sign_bytes(&acceptance.signing_bytes());
        self.say(&Message::Accept { acceptance: Box::new(acceptance), signature }).await;
        self.hear().await
    }

    /// The head of a data stream.
    pub fn request(target: &Target) -> Bytes {
        let body = encode(&(1u8, target.clone()));
        let mut head = (body.len() as u16).to_le_bytes().to_vec();
        head.extend(body);
        head.into()
    }

    pub async fn open(&self, target: &Target) -> (SendStream, RecvStream) {
        let (mut send, mut receive) = self.connection.open_bi().await.unwrap();
        send.write_chunk(Self::request(target)).await.unwrap();
        let mut answer = [0; 3];
        within(10, receive.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, [1, 0, 0], "opened");
        (send, receive)
    }
}

/// The code of a refusal.
pub fn refused(answer: Option<Message>) -> RefusalCode {
    match answer {
        Some(Message::Refused(refused)) => refused.code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}
