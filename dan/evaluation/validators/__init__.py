"""Model selection without target labels: scores of a network's outputs, and rules that choose among records."""

from dan.evaluation.validators.inputs import ValidatorInputs, linear_reverse, validator_inputs
from dan.evaluation.validators.records import RULES, Rule, choose
from dan.evaluation.validators.registry import VALIDATORS, Validator, available, validate
from dan.evaluation.validators.source_rules import label_free_score, two_sample_error
from dan.evaluation.validators.target_rules import information

__all__ = [
    "RULES",
    "VALIDATORS",
    "Rule",
    "Validator",
    "ValidatorInputs",
    "available",
    "choose",
    "information",
    "label_free_score",
    "linear_reverse",
    "two_sample_error",
    "validate",
    "validator_inputs",
]
