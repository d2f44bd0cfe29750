//! Hybrid connections as resources: the bodies of the service's management API, Atom entries around descriptions.
//!
//! ```text
//! GET    /{path}?api-version=2016-07            entry; a feed without entries if there is no such hybrid connection
//! PUT    /{path}                                entry -> entry; with If-Match: * an update
//! DELETE /{path}
//! GET    /$Resources/HybridConnections?$skip=..&$top=..     feed
//! GET    /{path}/Listeners                      feed
//!
//! <entry xmlns="http://www.w3.org/2005/Atom"><title>{path}</title>..<content type="application/xml">
//!   <HybridConnectionDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">
//!     CreatedAt UpdatedAt RequiresClientAuthorization UserMetadata ListenerCount, in this order
//!   </HybridConnectionDescription></content></entry>
//! <Error><Code>409</Code><Detail>..</Detail></Error>
//! ```
//!
//! Requests carry `X-PROCESS-AT: ServiceBus`, which tells them from requests for a listener. What a peer sends is read
//! without document types and entities of its own. `Listeners` is this project's addition; the service has nothing alike.

use std::error::Error;
use std::fmt::{self, Write as _};

use quick_xml::Reader;
use quick_xml::escape::{escape, resolve_xml_entity};
use quick_xml::events::{BytesRef, Event};

use crate::percent;
use crate::rejection::{Rejection, Utc};

/// The header that says that a request is for the namespace itself.
pub const PROCESS_AT_HEADER: &str = "X-PROCESS-AT";

/// Its value.
pub const PROCESS_AT: &str = "ServiceBus";

/// The path under which all hybrid connections are listed, without a leading slash.
pub const RESOURCES_PATH: &str = "$Resources/HybridConnections";

/// The most characters of user metadata, as on Azure.
pub const MAX_METADATA_CHARS: usize = 1024;

const ATOM: &str = "http://www.w3.org/2005/Atom";
const CONNECT: &str = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect";
const DESCRIPTION: &str = "HybridConnectionDescription";

/// Elements inside each other that are read; a description is the third.
const MAX_DEPTH: usize = 16;

/// The most entries of one feed.
pub const MAX_TOP: usize = 1000;

/// Entries of a feed, unless `$top` says otherwise.
const DEFAULT_TOP: usize = 100;

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// All hybrid connections, in the order of their paths.
    All {
        /// How many to leave out from the beginning.
        skip: usize,
        /// How many to give at most, [`MAX_TOP`] or fewer.
        top: usize,
    },
    /// The one at this path, decoded, without slashes at its ends; or something of it.
    Entity(String),
}

impl Resource {
    /// Parses a request target in origin form. `api-version` is not looked at.
    ///
    /// # Errors
    /// No path, or a `$skip` or `$top` that is no number.
    pub fn parse(target: &str) -> Result<Self, ResourceError> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = percent::decode(path);
        let path = path.trim_matches('/');
        if path.is_empty() {
            return Err(ResourceError::NoPath);
        }
        if !path.eq_ignore_ascii_case(RESOURCES_PATH) {
            return Ok(Self::Entity(path.to_owned()));
        }
        let number = |name: &'static str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs.find(|(key, _)| percent::decode(key).eq_ignore_ascii_case(name));
            value.map(|(_, value)| value.parse().map_err(|_| ResourceError::Number(name))).transpose()
        };
        Ok(Self::All { skip: number("$skip")?.unwrap_or(0), top: number("$top")?.unwrap_or(DEFAULT_TOP).min(MAX_TOP) })
    }
}

/// Why a request target names no resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResourceError {
    /// It is the root.
    NoPath,
    /// A parameter is no number.
    Number(&'static str),
}

impl fmt::Display for ResourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPath => write!(f, "name a hybrid connection, or /{RESOURCES_PATH} for all"),
            Self::Number(name) => write!(f, "{name} must be a number"),
        }
    }
}

impl Error for ResourceError {}

/// What is known of a hybrid connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// In Unix seconds.
    pub created_at: u64,
    /// In Unix seconds.
    pub updated_at: u64,
    /// What may be chosen.
    pub settings: Settings,
    /// How many listeners are connected.
    pub listeners: usize,
}

/// What whoever makes a hybrid connection may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether senders need a token.
    pub requires_client_authorization: bool,
    /// Text that the relay keeps for others.
    pub user_metadata: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { requires_client_authorization: true, user_metadata: None }
    }
}

impl Settings {
    /// Reads the settings from the body of a `PUT`: an entry, or a bare description. What is not said keeps its default,
    /// elements of no meaning here are passed over.
    ///
    /// # Errors
    /// Not XML, a document type, too deep, no description, or a value that is none.
    pub fn parse(xml: &str) -> Result<Self, DescriptionError> {
        let mut reader = Reader::from_str(xml);
        let mut settings = Self::default();
        // the names of the elements that are open
        let mut open: Vec<String> = Vec::new();
        let mut found = false;
        let mut text = String::new();
        loop {
            match reader.read_event().map_err(not_xml)? {
                Event::Start(element) => {
                    open.push(element.local_name().as_ref().to_owned());
                    if open.len() > MAX_DEPTH {
                        return Err(DescriptionError::TooDeep);
                    }
                    found |= open.last().is_some_and(|name| name == DESCRIPTION);
                    text.clear();
                }
                Event::Empty(element) => found |= element.local_name().as_ref() == DESCRIPTION,
                Event::Text(part) => text.push_str(&part.xml10_content()),
                Event::CData(part) => text.push_str(&part.xml10_content()),
                Event::GeneralRef(reference) => text.push(resolve(&reference)?),
                Event::End(_) => {
                    if let [.., parent, name] = &open[..]
                        && parent == DESCRIPTION
                    {
                        settings.set(name, &text)?;
                    }
                    open.pop();
                    text.clear();
                }
                Event::DocType(_) => return Err(DescriptionError::DocumentType),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof if !open.is_empty() => return Err(DescriptionError::NotXml("it ends too early".into())),
                Event::Eof if found => return Ok(settings),
                Event::Eof => return Err(DescriptionError::Missing),
            }
        }
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), DescriptionError> {
        match name {
            "RequiresClientAuthorization" => {
                self.requires_client_authorization = match text.trim() {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(DescriptionError::Value("RequiresClientAuthorization", "true or false")),
                };
            }
            "UserMetadata" => {
                if text.chars().count() > MAX_METADATA_CHARS || !text.chars().all(is_xml) {
                    return Err(DescriptionError::Value("UserMetadata", "text of at most 1024 characters"));
                }
                self.user_metadata = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
            _ => {}
        }
        Ok(())
    }
}

impl Description {
    /// The entry of the hybrid connection at `path` of the namespace `host`.
    #[must_use]
    pub fn entry(&self, host: &str, path: &str) -> String {
        let mut content = format!("<HybridConnectionDescription xmlns=\"{CONNECT}\">");
        let _ = write!(content, "<CreatedAt>{}Z</CreatedAt>", Utc(self.created_at));
        let _ = write!(content, "<UpdatedAt>{}Z</UpdatedAt>", Utc(self.updated_at));
        let required = self.settings.requires_client_authorization;
        let _ = write!(content, "<RequiresClientAuthorization>{required}</RequiresClientAuthorization>");
        if let Some(metadata) = &self.settings.user_metadata {
            let _ = write!(content, "<UserMetadata>{}</UserMetadata>", text(metadata));
        }
        let _ = write!(content, "<ListenerCount>{}</ListenerCount></HybridConnectionDescription>", self.listeners);
        entry(host, path, self.created_at, self.updated_at, &content)
    }
}

/// A listener as its hybrid connection's `Listeners` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerDescription {
    /// The id that it goes by.
    pub id: String,
    /// Address and port it has connected from.
    pub remote: String,
    /// Since when, in Unix seconds.
    pub connected_at: u64,
}

impl ListenerDescription {
    /// The entry of this listener at the hybrid connection at `path` of the namespace `host`.
    #[must_use]
    pub fn entry(&self, host: &str, path: &str) -> String {
        let content = format!(
            "<ListenerDescription xmlns=\"{CONNECT}\"><Id>{}</Id><RemoteEndpoint>{}</RemoteEndpoint>\
             <ConnectedAt>{}Z</ConnectedAt></ListenerDescription>",
            text(&self.id),
            text(&self.remote),
            Utc(self.connected_at)
        );
        entry(host, &format!("{path}/Listeners/{}", self.id), self.connected_at, self.connected_at, &content)
    }
}

/// A feed of `entries` under `path` of the namespace `host`, at `now_unix` seconds. Without any it also says that there is
/// no such hybrid connection.
#[must_use]
pub fn feed(host: &str, path: &str, now_unix: u64, entries: &[String]) -> String {
    let mut xml = format!("<feed xmlns=\"{ATOM}\"><title type=\"text\">{}</title>", text(path));
    let _ = write!(xml, "<id>https://{}/{}</id>", text(host), percent::encode_path(path));
    let _ = write!(xml, "<updated>{}Z</updated>", Utc(now_unix));
    xml.extend(entries.iter().map(String::as_str));
    xml.push_str("</feed>");
    xml
}

/// The body that says what `rejection` says.
#[must_use]
pub fn error(rejection: &Rejection) -> String {
    format!("<Error><Code>{}</Code><Detail>{}</Detail></Error>", rejection.status(), text(rejection.reason()))
}

fn entry(host: &str, path: &str, published: u64, updated: u64, content: &str) -> String {
    let (host, escaped) = (text(host), percent::encode_path(path));
    format!(
        "<entry xmlns=\"{ATOM}\"><id>https://{host}/{escaped}</id><title type=\"text\">{}</title>\
         <published>{}Z</published><updated>{}Z</updated><link rel=\"self\" href=\"https://{host}/{escaped}\"/>\
         <content type=\"application/xml\">{content}</content></entry>",
        text(path),
        Utc(published),
        Utc(updated)
    )
}

/// `content` as it stands in an element. What XML has no place for becomes U+FFFD.
fn text(content: &str) -> String {
    let fit: String = content.chars().map(|char| if is_xml(char) { char } else { '\u{fffd}' }).collect();
    escape(fit).into_owned()
}

fn resolve(reference: &BytesRef<'_>) -> Result<char, DescriptionError> {
    if let Some(char) = reference.resolve_char_ref().map_err(not_xml)? {
        return Ok(char);
    }
    let resolved = resolve_xml_entity(reference).and_then(|text| text.chars().next());
    resolved.ok_or_else(|| DescriptionError::NotXml("an entity that is not XML's own".into()))
}

fn not_xml(error: impl fmt::Display) -> DescriptionError {
    DescriptionError::NotXml(error.to_string())
}

/// Whether XML 1.0 has a place for the character.
fn is_xml(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Why a text is no description of a hybrid connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DescriptionError {
    /// No XML, in the parser's words.
    NotXml(String),
    /// It brings a document type of its own.
    DocumentType,
    /// More elements inside each other than any description needs.
    TooDeep,
    /// There is no `HybridConnectionDescription` in it.
    Missing,
    /// An element whose value is not as expected.
    Value(&'static str, &'static str),
}

impl fmt::Display for DescriptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotXml(error) => write!(f, "the body is not XML: {error}"),
            Self::DocumentType => f.write_str("the body has a document type, send it without"),
            Self::TooDeep => write!(f, "the body has more than {MAX_DEPTH} elements inside each other"),
            Self::Missing => f.write_str("the body has no HybridConnectionDescription"),
            Self::Value(element, expected) => write!(f, "{element} must be {expected}"),
        }
    }
}

impl Error for DescriptionError {}
