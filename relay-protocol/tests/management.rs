//! The bodies of the management API: what is written is what the service writes, what is read is all that makes sense.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use umbilical_relay_protocol::Rejection;
use umbilical_relay_protocol::management::{
    Description, DescriptionError, ListenerDescription, MAX_TOP, Resource, ResourceError, Settings, error, feed,
};

fn description(requires_client_authorization: bool, user_metadata: Option<&str>) -> Description {
    Description {
        created_at: 1_495_139_526,
        updated_at: 1_495_139_527,
        settings: Settings { requires_client_authorization, user_metadata: user_metadata.map(str::to_owned) },
        listeners: 2,
    }
}

#[test]
fn an_entry_holds_the_description_in_the_service_s_order() {
    let entry = description(true, Some(r#"[{"key":"endpoint","value":"a<b:1"}]"#)).entry("ns.example:8443", "plant/7");
    assert_eq!(
        entry,
        "<entry xmlns=\"http://www.w3.org/2005/Atom\"><id>https://ns.example:8443/plant/7</id>\
         <title type=\"text\">plant/7</title><published>2017-05-18T20:32:06Z</published>\
         <updated>2017-05-18T20:32:07Z</updated><link rel=\"self\" href=\"https://ns.example:8443/plant/7\"/>\
         <content type=\"application/xml\">\
         <HybridConnectionDescription xmlns=\"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect\">\
         <CreatedAt>2017-05-18T20:32:06Z</CreatedAt><UpdatedAt>2017-05-18T20:32:07Z</UpdatedAt>\
         <RequiresClientAuthorization>true</RequiresClientAuthorization>\
         <UserMetadata>[{&quot;key&quot;:&quot;endpoint&quot;,&quot;value&quot;:&quot;a&lt;b:1&quot;}]</UserMetadata>\
         <ListenerCount>2</ListenerCount></HybridConnectionDescription></content></entry>"
    );
    assert!(!description(true, None).entry("h", "p").contains("UserMetadata"));
}

#[test]
fn requests_are_about_one_or_all() {
    let entity = |path: &str| Ok(Resource::Entity(path.to_owned()));
    let all = |skip, top| Ok(Resource::All { skip, top });
    for (target, resource) in [
        ("/hyco?api-version=2016-07", entity("hyco")),
        ("/plant/line%202/", entity("plant/line 2")),
        ("/$Resources", entity("$Resources")),
        ("/$Resources/HybridConnections", all(0, 100)),
        ("/$resources/hybridconnections/?api-version=2016-07&$skip=5&$top=10", all(5, 10)),
        ("/%24Resources/HybridConnections?%24top=5000", all(0, MAX_TOP)),
        ("/$Resources/HybridConnections?$top=", Err(ResourceError::Number("$top"))),
        ("/$Resources/HybridConnections?$skip=-1", Err(ResourceError::Number("$skip"))),
        ("/", Err(ResourceError::NoPath)),
        ("?x", Err(ResourceError::NoPath)),
    ] {
        assert_eq!(Resource::parse(target), resource, "{target}");
    }
}

#[test]
fn feeds_and_errors() {
    let listener = ListenerDescription { id: "a&b".into(), remote: "[::1]:7".into(), connected_at: 0 };
    let odd = feed("h", "a\u{1}\u{ffff}b", 0, &[]);
    assert!(odd.contains("<title type=\"text\">a\u{fffd}\u{fffd}b</title><id>https://h/a%01%EF%BF%BFb</id>"), "{odd}");
    let feed = feed("h", "p/Listeners", 0, &[listener.entry("h", "p")]);
    assert!(feed.starts_with("<feed xmlns=\"http://www.w3.org/2005/Atom\"><title type=\"text\">p/Listeners</title>"));
    assert!(
        feed.contains("<Id>a&amp;b</Id><RemoteEndpoint>[::1]:7</RemoteEndpoint>") && feed.ends_with("</entry></feed>")
    );
    assert_eq!(
        error(&Rejection::new(409, "'<x>' exists")),
        "<Error><Code>409</Code><Detail>&apos;&lt;x&gt;&apos; exists</Detail></Error>"
    );
}

#[test]
fn what_clients_send_is_read() {
    let settings = |required, metadata: Option<&str>| {
        Ok(Settings { requires_client_authorization: required, user_metadata: metadata.map(str::to_owned) })
    };
    let inside = |xml: &str| {
        format!("<entry><content><HybridConnectionDescription>{xml}</HybridConnectionDescription></content></entry>")
    };
    for (xml, expected) in [
        (inside(""), settings(true, None)),
        ("<HybridConnectionDescription/>".into(), settings(true, None)),
        (inside("<RequiresClientAuthorization>false</RequiresClientAuthorization>"), settings(false, None)),
        (inside(" <RequiresClientAuthorization>\n1 </RequiresClientAuthorization> "), settings(true, None)),
        (inside("<UserMetadata>a &amp; b&#x20;<!-- no -->&#99;</UserMetadata>"), settings(true, Some("a & b c"))),
        (inside("<UserMetadata><![CDATA[<x>&amp;]]></UserMetadata>"), settings(true, Some("<x>&amp;"))),
        (inside("<UserMetadata/>"), settings(true, None)),
        (inside("<ListenerCount>99</ListenerCount><Else><RequiresClientAuthorization>x</RequiresClientAuthorization></Else>"), settings(true, None)),
        (
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<a:entry xmlns:a=\"http://www.w3.org/2005/Atom\">\
             <a:content type=\"application/xml\"><h:HybridConnectionDescription xmlns:h=\"x\">\
             <h:RequiresClientAuthorization>0</h:RequiresClientAuthorization></h:HybridConnectionDescription></a:content></a:entry>"
                .into(),
            settings(false, None),
        ),
        ("<RequiresClientAuthorization>false</RequiresClientAuthorization>".into(), Err(DescriptionError::Missing)),
        (String::new(), Err(DescriptionError::Missing)),
        ("{}".into(), Err(DescriptionError::Missing)),
        (
            inside("<RequiresClientAuthorization>maybe</RequiresClientAuthorization>"),
            Err(DescriptionError::Value("RequiresClientAuthorization", "true or false")),
        ),
        (
            inside(&format!("<UserMetadata>{}</UserMetadata>", "ü".repeat(1025))),
            Err(DescriptionError::Value("UserMetadata", "text of at most 1024 characters")),
        ),
        (
            inside("<UserMetadata>&#1;</UserMetadata>"),
            Err(DescriptionError::Value("UserMetadata", "text of at most 1024 characters")),
        ),
        (format!("<!DOCTYPE a [<!ENTITY b 'c'>]>{}", inside("")), Err(DescriptionError::DocumentType)),
        ("<a>".repeat(17), Err(DescriptionError::TooDeep)),
    ] {
        assert_eq!(Settings::parse(&xml), expected, "{xml}");
    }
    for broken in [
        inside("<UserMetadata>&other;</UserMetadata>"),
        inside("<UserMetadata>&#xFFFFFFFF;</UserMetadata>"),
        inside("</UserMetadata>"),
        "<HybridConnectionDescription>".into(),
        "<HybridConnectionDescription><a".into(),
    ] {
        assert!(matches!(Settings::parse(&broken), Err(DescriptionError::NotXml(_))), "{broken}");
    }
    assert_eq!(
        Settings::parse(&inside(&format!("<UserMetadata>{}</UserMetadata>", "ü".repeat(1024))))
            .unwrap()
            .user_metadata
            .unwrap()
            .len(),
        2048
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_the_same(required: bool, metadata in prop::option::of("[ -~\t\r\nüß€\u{10400}]{1,40}"), path in any::<String>()) {
        let described = description(required, metadata.as_deref());
        prop_assert_eq!(Settings::parse(&described.entry("ns.example", &path)), Ok(described.settings));
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), parts in prop::collection::vec(prop::sample::select(vec![
        "<entry>", "</entry>", "<HybridConnectionDescription>", "</HybridConnectionDescription>", "<UserMetadata>", "&amp;", "&#x1F600;", "&#0;",
        "</UserMetadata>", "<![CDATA[", "]]>", "<!--", "-->", "<?", "?>", "<a b='c'/>", "x", "<!DOCTYPE", "\u{0}", "&",
    ]), 0..30)) {
        let _ = Settings::parse(&text);
        let _ = Settings::parse(&parts.concat());
    }
}
