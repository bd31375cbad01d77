"""The names and descriptions of what ``find_background_bias`` writes on samples and labels."""

import fiftyone as fo

#: what analyses called the probability before; a heatmap's ``score`` is the logit
OLD_PROBABILITY = "score"
_F, _S, _B, _I = fo.FloatField, fo.StringField, fo.BooleanField, fo.IntField
#: the attributes of the field ``{cam_key}_bias``, each with what it says
ATTRIBUTES = {
    "reason": (_S, "The reason for the verdict, with numbers"),
    "tested": (_B, "Whether other backgrounds were tried on this sample"),
    "explained": (_S, "The class whose score is explained and tested"),
    "prediction": (_S, "The class that the model predicts"),
    "label": (_S, "The true class, where the dataset says it"),
    "correct": (_B, "Whether the prediction is the label"),
    "probability": (_F, "Probability of the explained class, 0 to 1"),
    "swap_drop": (_F, "What the score loses on backgrounds of other classes, on average"),
    "same_drop": (_F, "The control: what it loses on backgrounds of its own class"),
    "bg_gap": (_F, "swap_drop minus same_drop: the loss that pasting does not explain"),
    "swap_flip": (_F, "Share of the other backgrounds that change the prediction"),
    "adopt": (_F, "Share of the other backgrounds whose class becomes the prediction"),
    "bg_only": (_F, "Probability of the explained class without the object"),
    "bg_support": (_F, "bg_only minus the mean over other classes' backgrounds"),
    "heat_effect": (
        _F,
        "Share of the loss from the hottest pixels that is due to those off the object",
    ),
    "context_drop": (_F, "What the score loses without its context, minus that of a random region"),
    "suspicion": (_F, "Calibrated probability of background dependence, from the heat alone"),
    "donors": (fo.ListField, "The samples whose backgrounds were tried"),
    "verdicts": (fo.ListField, "Of a multi-label network: the verdict of each class"),
    "obj_energy": (_F, "Share of the heat on the object; a uniform map has object_area"),
    "object_area": (_F, "Share of the image that is object"),
    "density_share": (_F, "Heat per pixel on the object against the background; .5 is even"),
    "density_share_tol": (_F, "The same with the object grown by one cell of the map"),
    "log2_lift": (_F, "Heat on the object against a uniform map, log2 of the ratio"),
    "other_energy": (_F, "Share of the heat on other classes' objects"),
    "pix_auc": (_F, "Probability that a pixel of the object is hotter than one of the background"),
    "pointing": (_F, "Whether the hottest pixel is on the object, with 15 px of tolerance"),
    "rank_acc": (
        _F,
        "Share of the n hottest pixels on the object, n being the object's size in pixels",
    ),
    "iou": (_F, "Overlap of the object and the heat above half of its maximum"),
    "border_ratio": (_F, "Heat near the border against the mean; 1 is even"),
    "centre_ratio": (_F, "Heat in the middle against a uniform map; 1 is even"),
    "entropy": (_F, "How spread out the heat is, 0 to 1"),
    "gini": (_F, "How concentrated the heat is, 0 to 1"),
    "area50": (_F, "Smallest share of the pixels that holds half of the heat"),
    "reliable": (_B, "False where the object fills the image or is tiny, so heat says little"),
    "heat_status": (_S, "ok, zero, flat or nan: whether the map has heat"),
    "object_status": (_S, "ok, no_object, object_absent or unreadable"),
    "object_source": (_S, "Where the object is from, such as ground_truth_box"),
    "object_scope": (_S, "Which objects counted: explained, all or named"),
}
#: what the heatmap's own label gets: its tooltip shows all of them
LABEL_ATTRIBUTES = {
    "verdict": (_S, "The verdict on the sample"),
    "obj_energy": (_F, "Share of the heat on the object; a uniform map has object_area"),
    "object_area": (_F, "Share of the image that is object"),
}
#: what an object's own label gets from the test of a detector, its name after the key
OBJECT_ATTRIBUTES = {
    "verdict": (_S, "The verdict on the object"),
    "dependence": (_F, "Best estimate, 0 to 1, of how much of its score rests on its surroundings"),
    "swap_score": (
        _F,
        "Confidence of the best candidate of its class at its box, 0 if there is none",
    ),
    "swap_drop": (_F, "What that loses in the surroundings of other classes, on average"),
    "same_drop": (_F, "The control: what it loses in surroundings of its own class"),
    "bg_gap": (_F, "swap_drop minus same_drop: the loss that pasting does not explain"),
    "swap_flip": (_F, "Share of the other surroundings in which it is missed or misnamed"),
    "bg_only": (_F, "Confidence that is left where the object is taken out"),
    "reason": (_S, "The reason for the verdict, with numbers"),
}


def probability_of(numbers):
    """The probability of the explained class out of a sample's ``{cam_key}_bias``, of an old analysis too.

    Args:
        numbers: a dict, or None

    Returns:
        a float, or None
    """
    numbers = numbers or {}
    found = numbers.get("probability")
    return numbers.get(OLD_PROBABILITY) if found is None else found
