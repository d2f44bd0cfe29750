//! The wire protocol of Azure Relay Hybrid Connections: what a listener, a sender and a relay say to each other, as
//! types and functions over strings. Time is an argument; sockets, WebSocket framing and HTTP heads are the caller's.
//!
//! What is built here is what Microsoft's own clients and service send; what is parsed here is all that they are known
//! to send, and anything else gives an error that names its place, never a panic.
//!
//! In the order in which a connection meets them:
//!
//! | file | owns |
//! | --- | --- |
//! | `address.rs` | what a client dials: the relay's URL, rendezvous addresses |
//! | `request_target.rs` | what a relay reads from a request line; entity lookup; accept addresses |
//! | `http_target.rs` | the same of a plain HTTP request; request addresses |
//! | `token.rs` | shared access signatures: sign, verify |
//! | `authorization.rs` | keys, rules, rights: is this token good for this |
//! | `connection_string.rs` | a relay's address and a key in one line |
//! | `bearer.rs` | JSON Web Tokens: parse, verify |
//! | `key_set.rs` | the public keys of those who make them |
//! | `issuer.rs` | whose are trusted, and what they are good for |
//! | `rejection.rs` | refused handshakes: status and reason |
//! | `control.rs`, `control/fields.rs` | messages on the control channel, and reading their members |
//! | `headers.rs` | HTTP headers inside those messages |
//! | `close.rs` | close codes and their reasons |
//! | `preamble.rs` | what azbridge's two ends say before payload |
//! | `entity_path.rs` | names of what is made at run time, and patterns of them |
//! | `management.rs` | hybrid connections as resources: Atom entries and descriptions; with the feature `management` |
//! | `percent.rs` | percent coding, tolerant on input |

mod address;
mod authorization;
mod bearer;
mod close;
mod connection_string;
mod control;
mod entity_path;
mod headers;
mod http_target;
mod issuer;
mod key_set;
#[cfg(feature = "management")]
pub mod management;
mod percent;
mod preamble;
mod rejection;
mod request_target;
mod token;

pub use address::{AddressError, MAX_LISTENERS, RENDEZVOUS_VALIDITY, RelayUrl, Rendezvous};
pub use authorization::{Grant, Key, Right, Rights, Rule, authorize};
pub use bearer::BearerToken;
pub use close::Close;
pub use connection_string::{ConnectionString, ConnectionStringError, Credential};
pub use control::{
    Accept, ControlError, ListenerMessage, MAX_MESSAGE_BYTES, RelayMessage, RemoteEndpoint, Request, RequestHead,
    Response,
};
pub use entity_path::{PathPattern, is_entity_path, listeners_of};
pub use headers::{Headers, InvalidHeader};
pub use http_target::{HttpTarget, request_address};
pub use issuer::{Issuer, RELAY_AUDIENCE, SubjectGrant};
pub use key_set::{KeySet, KeySetError, MAX_KEYS};
pub use preamble::{PortMode, PreambleHead, PreambleReply};
pub use rejection::Rejection;
pub use request_target::{
    Action, MAX_ENTITY_PATH, Refusal, RequestTarget, application_target, entity_key, find_entity, user_query,
};
pub use token::{AUTHORIZATION_HEADER, SasToken, TokenError};
