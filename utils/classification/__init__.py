"""Classification of whole images: data, networks, loss, measurement and prediction of classify/."""
