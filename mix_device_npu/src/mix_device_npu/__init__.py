"""The mix-core device plugin for Huawei Ascend NPUs."""
