//! Sockets: HTTP server and client, the tunnel's hello, the two-way copy. It knows nothing of tasks.

pub mod http;
pub mod http_client;
pub mod relay;
pub mod tunnel;
pub mod websocket;
