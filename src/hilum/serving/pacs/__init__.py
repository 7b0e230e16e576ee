"""Beside a PACS: takes studies by C-STORE or DICOMweb, predicts them, and sends reports and segmentations back.

The rules, which ``docs/how-to/pacs.md`` explains to an operator:

- A study is complete when no new instance came for ``stable_s``, and no association that stored it last is open (one
  that stores nothing for ten times as long does not count).
- The first rule of the config that one of its CT series fits chooses the model. A study that fits none is ignored, and
  its files are removed.
- Own results, told by their UIDs, their manufacturer or their modality, are accepted and forgotten.
- The same instances again (UIDs and bytes) change nothing: the earlier result stands. A study that failed is tried
  again when a node sends it again.
- A late series, or headers that changed (a merged patient), are predicted again when the study is complete again. A
  result whose content is the same is the same instance (``dicom_out.identity``) and is not sent again. A new report
  names the one that it replaces in PredecessorDocumentsSequence.
- Objects and their UIDs are on disk before the first try to send them. A report goes last.
- Files of a study are kept for ``keep_hours`` after its end, objects until they are sent or their record expires.
"""
