//! What consumers want to reach.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

async fn serve<F: Future<Output = ()> + Send + 'static>(
    each: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(each(tcp));
        }
    });
    addr
}

/// Says everything back.
pub async fn echo() -> SocketAddr {
    serve(async |mut tcp| {
        let (mut reader, mut writer) = tcp.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

/// Sends without end.
pub async fn source() -> SocketAddr {
    serve(async |mut tcp| while tcp.write_all(&[0x5a; 16 << 10]).await.is_ok() {}).await
}

/// Swallows everything, and tells how much it was once the sender is done.
pub async fn sink() -> (SocketAddr, mpsc::UnboundedReceiver<u64>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let addr = serve(move |mut tcp| {
        let sender = sender.clone();
        async move {
            let mut swallowed = 0;
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = tcp.read(&mut buffer).await {
                swallowed += n as u64;
            }
            let _ = sender.send(swallowed);
        }
    })
    .await;
    (addr, receiver)
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
