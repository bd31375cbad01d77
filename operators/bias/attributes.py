"""The names and descriptions of what ``find_background_bias`` writes on samples and labels."""

import fiftyone as fo

_F, _S, _B, _I = fo.FloatField, fo.StringField, fo.BooleanField, fo.IntField
#: the attributes of the field ``{cam_key}_bias``, each with what it says
ATTRIBUTES = {
    "reason": (_S, "Why the verdict is what it is, with its numbers"),
    "tested": (_B, "Whether other backgrounds were tried on this sample"),
    "explained": (_S, "The class whose score is explained and tested"),
    "prediction": (_S, "The class that the model predicts"),
    "label": (_S, "The true class, where the dataset says it"),
    "correct": (_B, "Whether the prediction is the label"),
    "score": (_F, "Probability of the explained class, 0 to 1"),
    "swap_drop": (_F, "What the score loses on backgrounds of other classes, on average"),
    "same_drop": (_F, "The control: what it loses on backgrounds of its own class"),
    "bg_gap": (_F, "swap_drop less same_drop: what the background costs beyond pasting"),
    "swap_flip": (_F, "Share of the other backgrounds that change the prediction"),
    "adopt": (_F, "Share of the other backgrounds whose class becomes the prediction"),
    "bg_only": (_F, "Probability of the explained class without the object"),
    "bg_support": (_F, "bg_only less the mean over other classes' backgrounds"),
    "heat_effect": (_F, "Of what the hottest pixels cost, the share of those off the object"),
    "context_drop": (_F, "What the score loses without its context, beyond a random region"),
    "suspicion": (_F, "Chance of background dependence that the heat alone gives, calibrated"),
    "donors": (fo.ListField, "The samples whose backgrounds were tried"),
    "verdicts": (fo.ListField, "Of a multi-label network: what may be said of each of its classes"),
    "obj_energy": (_F, "Share of the heat on the object; a uniform map has object_area"),
    "object_area": (_F, "Share of the image that is object"),
    "density_share": (_F, "Heat per pixel on the object against the background; .5 is even"),
    "density_share_tol": (_F, "The same with the object grown by one cell of the map"),
    "log2_lift": (_F, "How many times more heat than a uniform map on the object, in doublings"),
    "other_energy": (_F, "Share of the heat on other classes' objects"),
    "pix_auc": (_F, "Chance that a pixel of the object is hotter than one of the background"),
    "pointing": (_F, "Whether the hottest pixel is on the object, with 15 px of tolerance"),
    "rank_acc": (_F, "Of as many hottest pixels as the object has, the share on it"),
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
    "verdict": (_S, "What may be said of the sample"),
    "obj_energy": (_F, "Share of the heat on the object; a uniform map has object_area"),
    "object_area": (_F, "Share of the image that is object"),
}
#: what an object's own label gets from the test of a detector, its name after the key
OBJECT_ATTRIBUTES = {
    "verdict": (_S, "What may be said of the object"),
    "dependence": (_F, "Best estimate, 0 to 1, of how much of its score rests on its surroundings"),
    "swap_score": (
        _F,
        "Confidence of the best candidate of its class at its box, 0 if there is none",
    ),
    "swap_drop": (_F, "What that loses in the surroundings of other classes, on average"),
    "same_drop": (_F, "The control: what it loses in surroundings of its own class"),
    "bg_gap": (_F, "swap_drop less same_drop: what the surroundings cost beyond pasting"),
    "swap_flip": (_F, "Share of the other surroundings in which it is missed or called otherwise"),
    "bg_only": (_F, "Confidence that is left where the object is taken out"),
    "reason": (_S, "Why the verdict is what it is, with its numbers"),
}
