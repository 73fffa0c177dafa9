//! How is an item changed? By an update on a condition, whose expressions are put together from attributes here, so that
//! nobody else counts placeholders or knows which names DynamoDB reserves.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    self, AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
};

use super::table::Item;
use super::{Inner, trouble};
use crate::ports::{StoreError, StoreTrouble};

/// Changes to one item, on a condition.
#[derive(Clone, Debug, Default)]
pub(super) struct Update {
    set: Vec<String>,
    add: Vec<String>,
    remove: Vec<String>,
    condition: Option<String>,
    names: HashMap<String, String>,
    values: Item,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Written {
    /// The item as it now stands.
    Done(Item),
    /// The condition did not hold: the item as it stands, if there is one.
    Refused(Option<Item>),
}

impl Update {
    /// The attribute gets the value.
    pub(super) fn set(mut self, name: &str, value: AttributeValue) -> Self {
        let part = format!("{} = {}", self.name(name), self.value(name, value));
        self.set.push(part);
        self
    }

    /// Likewise, unless it has one.
    pub(super) fn set_once(mut self, name: &str, value: AttributeValue) -> Self {
        let name_in = self.name(name);
        let part = format!("{name_in} = if_not_exists({name_in}, {})", self.value(name, value));
        self.set.push(part);
        self
    }

    /// The value, or no attribute.
    pub(super) fn set_or_remove(self, name: &str, value: Option<AttributeValue>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self.remove(name),
        }
    }

    /// The number grows by the value; from zero, if there is none.
    pub(super) fn add(mut self, name: &str, value: AttributeValue) -> Self {
        let part = format!("{} {}", self.name(name), self.value(name, value));
        self.add.push(part);
        self
    }

    /// No attribute any more.
    pub(super) fn remove(mut self, name: &str) -> Self {
        let part = self.name(name);
        self.remove.push(part);
        self
    }

    /// Only if this holds of the item, where `#name` stands for an attribute and `:value` for one of `values`. No value may
    /// be called like an attribute that is changed.
    pub(super) fn only_if<const N: usize>(mut self, condition: &str, values: [(&str, AttributeValue); N]) -> Self {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for after in condition.split('#').skip(1) {
            let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
            self.name(after.get(..end).unwrap_or_default());
        }
        for (name, value) in values {
            self.value(name, value);
        }
        self.condition = Some(condition.to_owned());
        self
    }

    /// Carries it out, alone.
    pub(super) async fn carry_out(self, inner: &Inner, doing: &str, key: Item) -> Result<Written, StoreError> {
        let sent = inner
            .clients
            .dynamodb
            .update_item()
            .table_name(&inner.settings.table)
            .set_key(Some(key))
            .update_expression(self.expression())
            .set_condition_expression(self.condition)
            .set_expression_attribute_names(some(self.names))
            .set_expression_attribute_values(some(self.values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match sent {
            Ok(reply) => Ok(Written::Done(reply.attributes.unwrap_or_default())),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    Ok(Written::Refused(refused.item().cloned()))
                }
                _ => Err(trouble::of_sdk(doing, &error)),
            },
        }
    }

    /// As part of a transaction.
    pub(super) fn in_transaction(self, inner: &Inner, doing: &str, key: Item) -> Result<TransactWriteItem, StoreError> {
        let update = types::Update::builder()
            .table_name(&inner.settings.table)
            .set_key(Some(key))
            .update_expression(self.expression())
            .set_condition_expression(self.condition)
            .set_expression_attribute_names(some(self.names))
            .set_expression_attribute_values(some(self.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .map_err(|error| trouble::of_ours(StoreTrouble::Other, doing, error.to_string()))?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    fn expression(&self) -> String {
        let clauses = [("SET", &self.set), ("ADD", &self.add), ("REMOVE", &self.remove)];
        let clauses = clauses.into_iter().filter(|(_, parts)| !parts.is_empty());
        clauses.map(|(word, parts)| format!("{word} {}", parts.join(", "))).collect::<Vec<_>>().join(" ")
    }

    fn name(&mut self, name: &str) -> String {
        let placeholder = format!("#{name}");
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    fn value(&mut self, name: &str, value: AttributeValue) -> String {
        let placeholder = format!(":{name}");
        self.values.insert(placeholder.clone(), value);
        placeholder
    }
}

/// DynamoDB refuses empty maps.
fn some<T>(map: HashMap<String, T>) -> Option<HashMap<String, T>> {
    (!map.is_empty()).then_some(map)
}

#[cfg(test)]
mod tests {
    use super::super::table::{number, text};
    use super::*;

    #[test]
    fn expressions_name_what_they_use_and_nothing_else() {
        let update = Update::default()
            .set("st", text("running"))
            .set_once("enq", number(5))
            .add("tok", number(1))
            .set_or_remove("att", None)
            .only_if("attribute_not_exists(#pk) OR #st = :was", [("was", text("queued"))]);
        let expected = "SET #st = :st, #enq = if_not_exists(#enq, :enq) ADD #tok :tok REMOVE #att";
        assert_eq!(update.expression(), expected);
        let mut names: Vec<_> = update.names.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["#att", "#enq", "#pk", "#st", "#tok"]);
        let mut values: Vec<_> = update.values.keys().map(String::as_str).collect();
        values.sort_unstable();
        assert_eq!(values, [":enq", ":st", ":tok", ":was"]);
    }
}
