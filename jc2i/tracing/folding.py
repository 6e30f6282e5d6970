def folded(model):
    return model
