"""apply an intervention at each strength and measure it"""
